"""Training samples as trunks with branches, and many of them as one row of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pauserec.llm.tree.rule import Layout
from pauserec.records import IntArray
from pauserec.training.batches import IGNORE, targets_of


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


@dataclass(frozen=True)
class Row:
    """Many samples without padding. tokens, labels: int64 [N]; layout: who sees whom."""

    tokens: IntArray
    labels: IntArray
    layout: Layout

    def batch(self, levels: Sequence[slice] = ()) -> dict[str, Any]:
        """What a language model's objective takes: tokens, layout, and the targets (see targets_of)."""
        return {"tokens": self.tokens, "layout": self.layout, **targets_of(self.labels, levels)}


def collate(samples: Sequence[Sample], opening: Sequence[int] | IntArray = ()) -> Row:
    """One row of samples. opening: tokens that all of them begin with, at its start once (nothing of it is a target)."""
    parts: list[Sample | Branch] = []
    for sample in samples:
        parts += [sample, *sample.branches]
    labels = np.concatenate([np.full(len(opening), IGNORE), *(part.labels for part in parts)])
    documents = [(len(s.tokens), [(branch.attach, len(branch.tokens)) for branch in s.branches]) for s in samples]
    tokens = np.concatenate([np.asarray(opening, dtype=np.int64), *(part.tokens for part in parts)])
    return Row(tokens, labels, Layout.of(documents, len(opening)))
