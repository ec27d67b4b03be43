"""What the stages share: a language model with a loss that the training loop can call."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from pauserec.config import Keep, LanguageTraining, ModelConfig
from pauserec.errors import ModelError
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.flex import tree_pass
from pauserec.llm.tree.rule import Layout
from pauserec.runs import processes
from pauserec.runs.device import best_device, use_bfloat16
from pauserec.runs.steps import FinishedStep
from pauserec.training.batches import IGNORE
from pauserec.training.losses import codebook_softmax_loss, full_softmax_loss
from pauserec.training.sharding import shard


def check_attention(settings: LanguageTraining) -> None:
    """Raise ModelError where this machine cannot train with the stage's kind of attention."""
    if settings.attention == "flex" and best_device().type != "cuda":
        raise ModelError(f"stages.{settings.name}.attention: flex trains on a GPU only: set it to documents")


class Objective(nn.Module):
    """Summed next-token loss of a planned batch; the head is computed at target positions only.

    settings: of the stage that trains: whether states are kept or computed again, layers compiled, weights parted.
    """

    def __init__(
        self,
        model: LanguageModel,
        softmax: Literal["full", "codebook"] = "full",
        rate: float = 0.0,
        *,
        settings: LanguageTraining | None = None,
    ) -> None:
        super().__init__()
        self.model, self._softmax, self._rate, self._flex = model, softmax, rate, False
        self._negatives: int | None = getattr(settings, "negatives", None)
        if settings is None:
            return
        check_attention(settings)
        self._flex = settings.attention == "flex"
        self._drop_in_layers(getattr(settings, "layer_dropout", 0.0))
        if settings.gradient_checkpointing:
            model.hf.activation_checkpointing_enable({"use_reentrant": False})
        if settings.compile:
            for layer in model.hf.base_model.layers:
                layer.mlp.compile(dynamic=True)
        if settings.sharding == "fsdp2" and processes.world() > 1:
            shard(self, model.hf.base_model.layers)

    def _drop_in_layers(self, rate: float) -> None:
        def drop(module: nn.Module, _: Any, output: Tensor) -> Tensor:
            return dropout(output, rate, module.training)

        for layer in self.model.hf.base_model.layers if rate else ():
            layer.self_attn.o_proj.register_forward_hook(drop)
            layer.mlp.register_forward_hook(drop)

    def forward(self, tokens: Tensor, labels: Tensor, layout: Layout) -> Tensor:
        """tokens, labels: int64 [N]; layout: who sees whom (llm/tree/samples.py). Gives a float32 scalar."""
        hidden, targets = self.states(tokens, labels, layout)
        if self._softmax == "full":
            return full_softmax_loss(hidden, targets, self.model.output())
        drawn = self._negatives if self.training else None
        return codebook_softmax_loss(hidden, targets, self.levels, self.model.output(), drawn)

    def states(self, tokens: Tensor, labels: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Final hidden states where there is a label [M, D], and the labels [M]."""
        tree = tree_pass(layout, tokens.device, flex=self._flex)
        embedded = dropout(self.model.embed(tokens), self._rate, self.training)
        chosen = (labels != IGNORE).nonzero()[:, 0]
        return self.model.hidden(embedded, tree)[chosen], labels[chosen]

    @property
    def levels(self) -> list[slice]:
        """The rows of each level of codes."""
        return [self.model.vocabulary.level_rows(level) for level in range(len(self.model.vocabulary.codebook_sizes))]


def kept_beside(keep: Keep, start: FinishedStep) -> Path | None:
    """The checkpoint that a stage's weights are kept as a difference from; None where the whole model is to be kept."""
    return start.path if keep == "rows" else None


def trains_in_bfloat16(precision: Literal["auto", "float32", "bfloat16"]) -> bool:
    """Whether matrix products run in bfloat16 during training (weights stay float32)."""
    return use_bfloat16(ModelConfig(precision=precision), best_device())


def seed_everything(seed: int) -> None:
    """Make dropout and the order of everything random repeatable."""
    torch.manual_seed(seed)
