"""Training samples, packed without padding into batches of at most so many tokens.

The plan of all batches is fixed by the seed before the first step, so a resumed run meets the same batches.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from pauserec.errors import RecipeError
from pauserec.records import IntArray

IGNORE = -100
Spec = TypeVar("Spec")


def targets_of(labels: IntArray, levels: Sequence[slice] = ()) -> dict[str, Any]:
    """Where a row's targets are, known before it is on a device, so that nothing has to be looked for there.

    labels: int64 [N], IGNORE where there is none. levels: the rows of each level of codes, ascending and apart.
    Gives places and labels, int64 [M] each, in the row's order, or level by level with what is no code at the end;
    counts: targets of each level; count: all targets, M.
    """
    places = np.flatnonzero(labels != IGNORE)
    found = labels[places]
    counts: tuple[int, ...] = ()
    if levels:
        level = np.full(len(found), len(levels))
        for number, rows in enumerate(levels):
            level[(found >= rows.start) & (found < rows.stop)] = number
        order = np.argsort(level, kind="stable")
        places, found = places[order], found[order]
        counts = tuple(np.bincount(level, minlength=len(levels) + 1)[: len(levels)].tolist())
    return {"places": places, "labels": found, "counts": counts, "count": len(found)}


def without_targets(batch: dict[str, Any]) -> dict[str, Any]:
    """The same tokens with nothing to predict: of several processes one may have no batch left, but all take the same steps."""
    if "places" not in batch:  # of a baseline: a label for every place
        return batch | {"labels": np.full_like(batch["labels"], IGNORE), "count": 0}
    none = targets_of(np.zeros(0, dtype=np.int64))
    return batch | none | {"counts": tuple(0 for _ in batch["counts"])}


def pack(lengths: Sequence[int], batch_tokens: int, order: Iterable[int]) -> list[list[int]]:
    """Fill batches in the given order: a sample goes to the first open batch with room (first fit over the last 8).

    lengths: tokens per sample. A sample longer than `batch_tokens` gets a batch of its own.
    """
    closed: list[list[int]] = []
    open_: list[tuple[int, list[int]]] = []
    for index in order:
        need = lengths[index]
        for slot, (room, members) in enumerate(open_):
            if need <= room:
                members.append(index)
                open_[slot] = (room - need, members)
                break
        else:
            open_.append((batch_tokens - need, [index]))
        if len(open_) > 8:
            fullest = min(range(len(open_)), key=lambda slot: open_[slot][0])
            closed.append(open_.pop(fullest)[1])
    return closed + [members for _, members in open_]


class PlannedBatches(Protocol):
    """All batches of a run, by number; each is the keyword arguments of the module's forward, plus `count` targets.

    A batch is asked for once, right before the optimizer step that takes it, in order.
    """

    epoch_ends: list[int]
    tokens: int

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...


class Batches(Generic[Spec]):
    """All batches of a training run, by number. `specs(epoch, rng)` lists an epoch's samples, `make` makes a batch of some.

    opening: tokens that every sample begins with; a batch holds them once, `length` leaves them out.
    """

    known_ahead = True
    """Any batch may be made before its turn."""

    def __init__(
        self,
        specs: Callable[[int, np.random.Generator], Sequence[Spec]],
        length: Callable[[Spec], int],
        make: Callable[[Sequence[Spec]], dict[str, Any]],
        *,
        epochs: float,
        batch_tokens: int,
        seed: int,
        opening: int = 0,
    ) -> None:
        self._make = make
        self._plan: list[list[Spec]] = []
        self.epoch_ends: list[int] = []
        """Number of batches done when each epoch ends."""
        for epoch in range(int(np.ceil(epochs))):
            rng = np.random.default_rng([seed, epoch])
            drawn = specs(epoch, rng)
            room = batch_tokens - opening
            batches = pack([length(spec) for spec in drawn], room, rng.permutation(len(drawn)).tolist())
            rng.shuffle(batches)
            share = min(1.0, epochs - epoch)
            batches = batches[: max(1, round(share * len(batches)))]
            self._plan += [[drawn[i] for i in members] for members in batches]
            self.epoch_ends.append(len(self._plan))
        if not self._plan:
            raise RecipeError(
                "there is nothing to train on: every history is too short for this stage's targets; give longer ones, "
                "or leave the stage out"
            )
        tokens = [opening + sum(map(length, members)) for members in self._plan]
        self.tokens, self.longest = sum(tokens), max(tokens)

    def specs(self) -> list[Spec]:
        """All samples of the plan, in the order they are met."""
        return [spec for members in self._plan for spec in members]

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._make(self._plan[number])
