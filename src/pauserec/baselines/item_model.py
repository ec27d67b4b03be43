"""What the models over items share: one table for input and output, places counted from the window's end, the loss.

Shapes: B histories, n items, D width, M targets.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pauserec.baselines.item_loss import ItemLoss
from pauserec.config import SequentialSettings
from pauserec.training.batches import IGNORE

MakeLoss = Callable[[Tensor], ItemLoss]
"""Targets [M] to their loss."""


class ItemModel(nn.Module):
    """Called with items, int64 [B, n], 0 is padding (at the start) and item i is i + 1; gives states [B, n, D].

    An item's score is the product of a state and its output row. extra: input rows beyond the items'.
    """

    def __init__(self, items: int, config: SequentialSettings, *, places: int = 0, extra: int = 0) -> None:
        super().__init__()
        self.items = items
        self.table = nn.Embedding(items + 1 + extra, config.width, padding_idx=0)
        self.places = nn.Embedding(places, config.width) if places else None
        self.dropout = nn.Dropout(config.dropout)
        for table in filter(None, (self.table, self.places)):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.table.weight[0] = 0

    def embed(self, items: Tensor) -> Tensor:
        """Input embeddings [B, n, D], with dropout."""
        rows: Tensor = self.table(items)
        if self.places is not None:
            rows = rows + self.places.weight[self.places.num_embeddings - items.shape[1] :]
        return self.dropout(rows)  # type: ignore[no-any-return]

    def rows(self) -> Tensor:
        """The output rows [items, D]."""
        return self.table.weight[1 : self.items + 1]

    def loss(self, items: Tensor, labels: Tensor, make: MakeLoss) -> Tensor:
        """Summed over targets. labels: int64 [B, n], the item number that follows each place, or IGNORE."""
        wanted = labels != IGNORE
        return make(labels[wanted])(self(items)[wanted])

    def last(self, items: Tensor) -> Tensor:
        """The states [B, D] that rank what follows."""
        return self(items)[:, -1]  # type: ignore[no-any-return]


def seen_from(items: Tensor) -> Tensor:
    """Which places a place sees: itself and real items before it, bool [B, 1, n, n]."""
    n = items.shape[1]
    return torch.ones(n, n, dtype=torch.bool, device=items.device).tril() & (items > 0)[:, None, None, :]
