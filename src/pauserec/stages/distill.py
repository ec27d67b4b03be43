"""Self-distillation: a model with pauses learns from what the model it started from predicts without them.

Not of the paper: a setting of implicit-reasoning fine-tuning (`distill`), for small models and small data. A model of few
layers that has just learned to predict from the last item must learn it anew from a pause; labels alone teach it that
slowly and are learned by heart on the way. Targets as in Hinton et al. 2015 (arXiv 1503.02531), eq. 4, at temperature 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pauserec.config import LanguageTraining
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.rule import Layout
from pauserec.llm.tree.samples import collate
from pauserec.stages.next_item_samples import NextItemSamples, Window
from pauserec.stages.objective import Objective
from pauserec.training.losses import taught_codebook_loss


class Teaching:
    """The samples that the teacher sees: the same windows and targets without pauses and text, in the same order."""

    def __init__(self, samples: NextItemSamples) -> None:
        self._samples = samples

    def __call__(self, chosen: Sequence[Window]) -> dict[str, Any]:
        """What a batch of these windows gets besides the student's own keys."""
        if not self._samples.prompts.suffix:  # then the trunk itself says all targets but the newest
            chosen = [replace(window, targets=window.targets[-1:]) for window in chosen]
        batch = collate([self._samples.build(window) for window in chosen], self._samples.prompts.opening)
        return {f"taught_{key}": batch[key] for key in ("tokens", "labels", "layout")}


class TaughtObjective(Objective):
    """Summed loss against targets that are `weight` of what the teacher predicts and the rest the label itself.

    teacher: a frozen copy of the model before its training.
    """

    def __init__(
        self, model: LanguageModel, teacher: LanguageModel, weight: float, rate: float, *, settings: LanguageTraining
    ) -> None:
        super().__init__(model, "codebook", rate, settings=settings)
        self._weight, self._teacher = (
            weight,
            [teacher.eval().requires_grad_(False)],
        )  # in a list: no part of this module

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        layout: Layout,
        taught_tokens: Tensor | None = None,
        taught_labels: Tensor | None = None,
        taught_layout: Layout | None = None,
    ) -> Tensor:
        """See Objective.forward. taught_*: the teacher's row of tokens, whose labels are the same in the same order."""
        if taught_tokens is None or taught_labels is None or taught_layout is None or not self.training:
            return super().forward(tokens, labels, layout)
        hidden, targets = self.states(tokens, labels, layout)
        if not len(targets):
            return super().forward(tokens, labels, layout)
        (teacher,) = self._teacher
        with torch.no_grad():
            seen, same = Objective(teacher).states(taught_tokens, taught_labels, taught_layout)
        assert torch.equal(targets, same), "teacher and student have the same targets in the same order"
        heads = self.model.output(), teacher.output()
        return taught_codebook_loss(hidden, seen, targets, self.levels, heads, self._weight, self._negatives)
