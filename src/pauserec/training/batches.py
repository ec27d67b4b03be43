"""Training samples, packed without padding into batches of at most so many tokens.

A sample is a trunk with branches (see llm/tree/passes.py): token ids, and for each token the label of the next one or IGNORE.
The plan of all batches is fixed by the seed before the first step, so a resumed run meets the same batches.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from pauserec.errors import RecipeError
from pauserec.records import IntArray

IGNORE = -100
Spec = TypeVar("Spec")


@dataclass(frozen=True)
class Branch:
    """A continuation of the first `attach` trunk tokens. tokens, labels: int64 [n]; labels[i] is what follows tokens[i]."""

    attach: int
    tokens: IntArray
    labels: IntArray


@dataclass(frozen=True)
class Sample:
    """A trunk and its branches. tokens, labels: int64 [T]."""

    tokens: IntArray
    labels: IntArray
    branches: tuple[Branch, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of trunk and branches together."""
        return len(self.tokens) + sum(len(branch.tokens) for branch in self.branches)


def labelled(tokens: Sequence[int], is_target: Sequence[bool]) -> tuple[IntArray, IntArray]:
    """Inputs and next-token labels of a sequence; what follows the last target's predecessor is cut off.

    tokens, is_target: length n. Gives two int64 [m] arrays, m < n.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    labels = np.where(np.asarray(is_target[1:], dtype=bool), ids[1:], IGNORE)
    keep = int(np.flatnonzero(labels != IGNORE).max(initial=-1)) + 1
    return ids[:keep], labels[:keep]


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


class Batches(Generic[Spec]):
    """All batches of a training run, by number. `specs(epoch, rng)` lists an epoch's samples, `build` makes one of them.

    opening: tokens that every sample begins with; a batch holds them once, `length` and `build` leave them out.
    """

    def __init__(
        self,
        specs: Callable[[int, np.random.Generator], Sequence[Spec]],
        length: Callable[[Spec], int],
        build: Callable[[Spec], Sample],
        *,
        epochs: float,
        batch_tokens: int,
        seed: int,
        opening: Sequence[int] = (),
    ) -> None:
        self._build, self._opening = build, np.asarray(opening, dtype=np.int64)
        self._plan: list[list[Spec]] = []
        self.epoch_ends: list[int] = []
        """Number of batches done when each epoch ends."""
        for epoch in range(int(np.ceil(epochs))):
            rng = np.random.default_rng([seed, epoch])
            drawn = specs(epoch, rng)
            room = batch_tokens - len(opening)
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
        self.tokens = sum(len(opening) + sum(map(length, members)) for members in self._plan)

    def specs(self) -> list[Spec]:
        """All samples of the plan, in the order they are met."""
        return [spec for members in self._plan for spec in members]

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return collate([self._build(spec) for spec in self._plan[number]], self._opening)


def collate(samples: Sequence[Sample], opening: Sequence[int] | IntArray = ()) -> dict[str, Any]:
    """One flat row. tokens, labels: int64 [N]; layout: per sample (trunk tokens, ((attach, tokens) per branch)).

    opening: tokens that all samples begin with, at the row's start once (nothing of it is a target).
    """
    tokens, labels, layout = [np.asarray(opening, dtype=np.int64)], [np.full(len(opening), IGNORE)], []
    for sample in samples:
        tokens += [sample.tokens, *(branch.tokens for branch in sample.branches)]
        labels += [sample.labels, *(branch.labels for branch in sample.branches)]
        layout.append((len(sample.tokens), tuple((branch.attach, len(branch.tokens)) for branch in sample.branches)))
    flat = np.concatenate(labels)
    return {
        "tokens": np.concatenate(tokens),
        "labels": flat,
        "layout": layout,
        "opening": len(opening),
        "count": int((flat != IGNORE).sum()),
    }
