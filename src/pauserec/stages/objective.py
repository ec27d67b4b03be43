"""What the stages share: a language model with a loss that the training loop can call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from pauserec.config import Keep, LanguageTraining, ModelConfig
from pauserec.errors import ModelError
from pauserec.llm.layers.trained import TrainedBackbone, can_train
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.flex import tree_pass
from pauserec.llm.tree.rule import Layout
from pauserec.runs import processes
from pauserec.runs.device import best_device, use_bfloat16
from pauserec.runs.steps import FinishedStep
from pauserec.stages.rows import FixedRows
from pauserec.training.batches import Batches, PlannedBatches
from pauserec.training.losses import Levels, codebook_softmax_loss, full_softmax_loss
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
        self.model, self._softmax, self._rate = model, softmax, rate
        self._negatives: int | None = getattr(settings, "negatives", None)
        self._compiled: TrainedBackbone | None = None
        self._flex = False
        if settings is None:
            return
        check_attention(settings)
        gpu = best_device().type == "cuda"
        self._flex = gpu if settings.attention is None else settings.attention == "flex"
        base, dropped = model.hf.base_model, getattr(settings, "layer_dropout", 0.0)
        parted = settings.sharding == "fsdp2" and processes.world() > 1
        compiled = gpu if settings.compile is None else settings.compile
        if compiled and not parted and can_train(base):
            checkpointing = settings.gradient_checkpointing
            self._compiled = TrainedBackbone(base, rate=dropped, checkpointing=checkpointing, fixed=self._flex)
            return
        self._drop_in_layers(dropped)
        if settings.gradient_checkpointing:
            model.hf.activation_checkpointing_enable({"use_reentrant": False})
        for layer in base.layers if compiled else ():
            layer.mlp.compile(dynamic=True)
        if parted:
            shard(self, base.layers)

    def _drop_in_layers(self, rate: float) -> None:
        def drop(module: nn.Module, _: Any, output: Tensor) -> Tensor:
            return dropout(output, rate, module.training)

        for layer in self.model.hf.base_model.layers if rate else ():
            layer.self_attn.o_proj.register_forward_hook(drop)
            layer.mlp.register_forward_hook(drop)

    def forward(
        self, tokens: Tensor, layout: Layout | Tensor, places: Tensor, labels: Tensor, counts: Sequence[int] = ()
    ) -> Tensor:
        """The loss, a float32 scalar.

        tokens: int64 [N]; layout: who sees whom, as a tensor for FlexAttention (llm/tree/rule.py); places, labels: int64
        [M], which tokens are followed by which target; counts: targets of each level of codes, where the softmax is over
        these (batches.targets_of).
        """
        hidden = self.states(tokens, layout, places)
        if self._softmax == "full":
            return full_softmax_loss(hidden, labels, self.model.output())
        levels = Levels(self.model.vocabulary.levels, counts)
        drawn = self._negatives if self.training else None
        return codebook_softmax_loss(hidden, labels, levels, self.model.output(), drawn)

    def states(self, tokens: Tensor, layout: Layout | Tensor, places: Tensor) -> Tensor:
        """Final hidden states at some places [M, D]."""
        tree = tree_pass(layout, tokens.device)
        embedded = dropout(self.model.embed(tokens), self._rate, self.training)
        hidden = (self._compiled or self.model).hidden(embedded, tree)
        return hidden.index_select(0, places)

    def rows(self, batches: Batches[Any]) -> PlannedBatches:
        """The batches as this objective takes them: for FlexAttention, and for layers compiled for it, of one length."""
        return FixedRows(batches) if self._flex else batches


def kept_beside(keep: Keep, start: FinishedStep) -> Path | None:
    """The checkpoint that a stage's weights are kept as a difference from; None where the whole model is to be kept."""
    return start.path if keep == "rows" else None


def trains_in_bfloat16(precision: Literal["auto", "float32", "bfloat16"]) -> bool:
    """Whether matrix products run in bfloat16 during training (weights stay float32)."""
    return use_bfloat16(ModelConfig(precision=precision), best_device())


def seed_everything(seed: int) -> None:
    """Make dropout and the order of everything random repeatable."""
    torch.manual_seed(seed)
