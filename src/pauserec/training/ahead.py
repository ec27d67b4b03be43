"""Batches that worker processes make ahead, so that a GPU does not wait for its next one."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from pauserec.training.batches import PlannedBatches

WORKERS = 2


class MadeAhead:
    """Some batches of a plan, asked for in this order; any other is made when it is asked for.

    batches: known before the first step (fresh ones, made from the weights of now, cannot be made ahead). Arrays come as
    tensors. pinned: in memory that a GPU reads by itself.
    """

    def __init__(
        self, batches: PlannedBatches, numbers: Sequence[int], *, workers: int = WORKERS, pinned: bool
    ) -> None:
        self._batches, self._numbers = batches, iter(numbers)
        self._next = next(self._numbers, None)
        loader: DataLoader[dict[str, Any]] = DataLoader(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=list(numbers),
            num_workers=workers,
            multiprocessing_context="fork",
            pin_memory=pinned,
            generator=torch.Generator(),  # of its own: what training draws stays what it was
        )
        self._made: Iterator[dict[str, Any]] = iter(loader)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number != self._next:
            return self._batches[number]
        self._next = next(self._numbers, None)
        return next(self._made)
