"""Loss functions: pure, on hidden states and labels. M targets, D width, V vocabulary rows in use."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

CHUNK = 2048
"""Targets whose logits are held at once."""


def full_softmax_loss(hidden: Tensor, labels: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Summed cross-entropy over the whole vocabulary. hidden [M, D], labels int64 [M]; logits: [m, D] -> [m, V]."""
    parts = [
        cross_entropy(logits(states).float(), target, reduction="sum")
        for states, target in zip(hidden.split(CHUNK), labels.split(CHUNK), strict=True)
    ]
    return torch.stack(parts).sum()


def codebook_softmax_loss(
    hidden: Tensor, labels: Tensor, levels: list[slice], logits: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """Summed cross-entropy, each target against the codes of its own level only.

    hidden [M, D], labels int64 [M] (token rows); levels: the rows of each level; logits: ([m, D], rows) -> [m, rows].
    """
    total = hidden.new_zeros((), dtype=torch.float32)
    for rows in levels:
        chosen = ((labels >= rows.start) & (labels < rows.stop)).nonzero()[:, 0]
        if len(chosen):
            scores = logits(hidden[chosen], rows).float()
            total = total + cross_entropy(scores, labels[chosen] - rows.start, reduction="sum")
    return total
