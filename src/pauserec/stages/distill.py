"""Self-distillation: a model with pauses learns from what the model it started from predicts without them.

Not of the paper: a setting of implicit-reasoning fine-tuning (`distill`), for small models and small data. A model of few
layers that has just learned to predict from the last item must learn it anew from a pause; labels alone teach it that
slowly and are learned by heart on the way. Targets as in Hinton et al. 2015 (arXiv 1503.02531), eq. 4, at temperature 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pauserec.config import LanguageTraining
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.rule import Layout
from pauserec.stages.next_item_rows import Window
from pauserec.stages.next_item_samples import NextItemSamples
from pauserec.stages.objective import Objective
from pauserec.training.losses import Levels, taught_codebook_loss


class Teaching:
    """The samples that the teacher sees: the same windows and targets without pauses and text, in the same order."""

    def __init__(self, samples: NextItemSamples) -> None:
        self._samples = samples

    def __call__(self, chosen: Sequence[Window], own: dict[str, Any]) -> dict[str, Any]:
        """What a batch of these windows gets besides the student's own keys."""
        if not self._samples.prompts.suffix:  # then the trunk itself says all targets but the newest
            chosen = [replace(window, targets=window.targets[-1:]) for window in chosen]
        batch = self._samples.batch(chosen)
        assert np.array_equal(batch["labels"], own["labels"]), (
            "teacher and student have the same targets in the same order"
        )
        return {f"taught_{key}": batch[key] for key in ("tokens", "layout", "places")}


class TaughtObjective(Objective):
    """Summed loss against targets that are `weight` of what the teacher predicts and the rest the label itself.

    teacher: a frozen copy of the model before its training.
    """

    def __init__(
        self, model: LanguageModel, teacher: LanguageModel, weight: float, rate: float, *, settings: LanguageTraining
    ) -> None:
        super().__init__(model, "codebook", rate, settings=settings)
        alone = settings.model_copy(update={"sharding": "none", "gradient_checkpointing": False})
        self._weight = weight
        self._teacher = [Objective(teacher.requires_grad_(False), settings=alone).eval()]
        """In a list: no part of this module."""

    def forward(
        self,
        tokens: Tensor,
        layout: Layout | Tensor,
        places: Tensor,
        labels: Tensor,
        counts: Sequence[int] = (),
        taught_tokens: Tensor | None = None,
        taught_layout: Layout | Tensor | None = None,
        taught_places: Tensor | None = None,
    ) -> Tensor:
        """See Objective.forward. taught_*: the teacher's row of tokens, whose targets are the same in the same order."""
        if taught_tokens is None or taught_layout is None or taught_places is None:
            return super().forward(tokens, layout, places, labels, counts)
        if not self.training or not len(labels):
            return super().forward(tokens, layout, places, labels, counts)
        hidden = self.states(tokens, layout, places)
        (teacher,) = self._teacher
        with torch.no_grad():
            seen = teacher.states(taught_tokens, taught_layout, taught_places)
        heads, levels = (self.model.output(), teacher.model.output()), Levels(self.model.vocabulary.levels, counts)
        return taught_codebook_loss(hidden, seen, labels, levels, heads, self._weight, self._negatives)
