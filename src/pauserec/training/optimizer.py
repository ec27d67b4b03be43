"""AdamW and its learning rate, as transformers' Trainer has them."""

import math
import re
from typing import Literal

import torch
from torch import nn

from pauserec.config import TrainingSettings

_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names of parameters that weight decay leaves alone, as transformers' Trainer has them."""


def adamw(module: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW; biases and norms are not decayed."""
    norms = {
        f"{name}.{own}" if name else own
        for name, part in module.named_modules()
        if isinstance(part, nn.LayerNorm)
        for own, _ in part.named_parameters()
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (others if name in norms or _NOT_DECAYED.search(name.lower()) else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def rate_factor(settings: TrainingSettings, step: float, steps: int) -> float:
    """Learning rate of the step after `step` steps, as a share of the highest: a linear rise, then by the schedule."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return step / max(1, warmup)
    left: dict[Literal["constant_with_warmup", "linear", "cosine"], float] = {
        "constant_with_warmup": 1.0,
        "linear": (steps - step) / max(1, steps - warmup),
        "cosine": 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))),
    }
    return max(0.0, left[settings.schedule])
