"""Rows of one length, so that a GPU meets the same shapes in every step and everything is compiled once."""

from typing import Any

import numpy as np

from pauserec.llm.tree.rule import Layout
from pauserec.training.batches import Batches

MULTIPLE = 128
"""Rows are filled up to a multiple of this, FlexAttention's block."""


class FixedRows:
    """Batches whose rows all have the length of the longest, with padding that is a document of its own.

    Layouts become arrays (`Layout.array`), which travel to the device with the tokens: masks are made there.
    """

    known_ahead = True
    """See Batches."""

    def __init__(self, batches: Batches[Any]) -> None:
        self._batches = batches
        self.size = -(-batches.longest // MULTIPLE) * MULTIPLE
        """Tokens of a row."""
        self.epoch_ends, self.tokens = batches.epoch_ends, batches.tokens

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        batch = dict(self._batches[number])
        for name in [name for name, value in batch.items() if isinstance(value, Layout)]:
            tokens = name.replace("layout", "tokens")  # of a teacher's rows too, which are shorter
            more = self.size - len(batch[tokens])
            batch[tokens] = np.concatenate([batch[tokens], np.zeros(more, dtype=np.int64)])
            batch[name] = batch[name].filled(self.size).array()
        return batch
