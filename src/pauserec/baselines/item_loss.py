"""Losses against items: binary cross-entropy, or a softmax over all or over sampled items.

Shapes: M targets, D width, I items, C candidates.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from pauserec.config import SequentialSettings
from pauserec.training.losses import Head, full_softmax_loss

NEVER = -1e4
"""Score of a drawn item that is the target itself: finite, so that divergences between softmaxes are too."""


class ItemLoss:
    """The loss of states whose next items are known. What is sampled is drawn once, when this is made.

    table: output rows [I, D]. targets: int64 [M].
    """

    def __init__(self, settings: SequentialSettings, table_ID: Tensor, targets_M: Tensor) -> None:
        self.kind, self.table, self.targets = settings.loss, table_ID, targets_M
        shape: tuple[int, ...] = (len(targets_M),)
        if settings.loss == "sampled":
            apart = settings.negatives_for == "target"
            shape = (len(targets_M), settings.negatives) if apart else (settings.negatives,)
        self.drawn = torch.randint(len(table_ID), shape, device=table_ID.device)

    def __call__(self, hidden_MD: Tensor, temperature: float = 1.0) -> Tensor:
        """Summed over targets."""
        if self.kind == "full":
            return full_softmax_loss(hidden_MD / temperature, self.targets, Head(self.table))
        if self.kind == "bce":  # one drawn item per target; where it is the target itself it does not count
            right_M = self._right(hidden_MD) / temperature
            wrong_M = (hidden_MD * self.table[self.drawn]).sum(-1) / temperature
            return -(logsigmoid(right_M) + logsigmoid(-wrong_M) * (self.drawn != self.targets)).sum()
        scores_MC = self.scores(hidden_MD) / temperature
        return cross_entropy(scores_MC, torch.zeros_like(self.targets), reduction="sum")

    def scores(self, hidden_MD: Tensor) -> Tensor:
        """Scores of what the softmax runs over [M, C]: all items, or the target followed by the drawn ones."""
        if self.kind == "full":
            return hidden_MD @ self.table.T
        same = self.drawn == self.targets[:, None]
        if self.drawn.dim() == 2:  # by way of all items: rows of the table for every target would take far more memory
            wrong = (hidden_MD @ self.table.T).gather(1, self.drawn)
        else:
            wrong = hidden_MD @ self.table[self.drawn].T
        return torch.cat([self._right(hidden_MD)[:, None], wrong.masked_fill(same, NEVER)], dim=1)

    def _right(self, hidden_MD: Tensor) -> Tensor:
        return (hidden_MD * self.table[self.targets]).sum(-1)
