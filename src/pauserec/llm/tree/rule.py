"""Who sees whom: the one rule behind every mask.

A document is a trunk and branches. A trunk token sees the trunk up to itself. A branch sees the first tokens of its trunk,
up to where it is attached, and its own earlier tokens; never another branch. All documents of a row may begin with the
same tokens (a template's words): these, the opening, stand in the row once and every document sees them.

Every token carries four integers, which decide what it sees and by whom it is seen:
    document  which document it belongs to, from 0; OPENING for the tokens that all documents begin with
    branch    which branch of its document, from 0; TRUNK for a trunk's tokens
    place     its position in the sequence it belongs to, the opening included
    limit     the trunk tokens it sees are those before this place
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pauserec.records import IntArray

DOCUMENT, BRANCH, PLACE, LIMIT = range(4)
"""Their order wherever the four stand together."""
OPENING = -1
"""Document of the tokens that all documents begin with."""
TRUNK = -1
"""Branch of a trunk's tokens."""
NOBODY = -2
"""Branch of a key that no query of a pass descends from."""

Marks = Sequence[Any] | Tensor
"""document, branch, place and limit: arrays or tensors of integers whose shapes broadcast."""


def visible(query: Marks, key: Marks, window: int | None = None) -> Any:
    """Whether each query sees each key, bool, of the shape that both broadcast to.

    window: how far back a token looks, itself counted (sliding attention); None looks back without end.
    """
    document, branch, place, limit = query
    its_document, its_branch, its_place, _ = key
    same = document == its_document
    trunk = (its_branch == TRUNK) & (its_place < limit) & (same | (its_document == OPENING))
    own = same & (branch == its_branch) & (its_branch != TRUNK) & (its_place <= place)
    seen = trunk | own
    return seen if window is None else seen & (place - its_place < window)


def visible_in_trunk(place: Any, key: Any, window: int | None = None) -> Any:
    """`visible` within one trunk, of tokens at these places: causal, at most `window` back."""
    return visible((0, TRUNK, place, place + 1), (0, TRUNK, key, 0), window)


@dataclass(frozen=True)
class Layout:
    """The four integers of every token of a row, int64 [N] each: the opening, then document after document, trunk first."""

    document: IntArray
    branch: IntArray
    place: IntArray
    limit: IntArray

    @classmethod
    def of(cls, documents: Sequence[tuple[int, Sequence[tuple[int, int]]]], opening: int = 0) -> Self:
        """A row of documents, each given by its trunk's tokens and (attach, tokens) of its branches.

        `attach` trunk tokens are visible to a branch, 1 <= attach <= trunk; its places go on from there.
        """
        stretches = [(opening, OPENING, TRUNK, 0)] if opening else []
        for number, (trunk, branches) in enumerate(documents):
            stretches.append((trunk, number, TRUNK, opening))
            stretches += [(n, number, own, opening + at) for own, (at, n) in enumerate(branches)]
        lengths, document, branch, first = np.array(stretches, dtype=np.int64).reshape(-1, 4).T
        return cls.of_stretches(lengths, document, branch, first)

    @classmethod
    def of_stretches(cls, lengths: IntArray, document: IntArray, branch: IntArray, first: IntArray) -> Self:
        """A row of stretches of tokens, each of one document and branch, int64 [stretches] each.

        first: the place of a stretch's first token; of a branch also its limit.
        """
        ends = lengths.cumsum()
        place = np.arange(lengths.sum()) + np.repeat(first - (ends - lengths), lengths)
        document, branch, limit = (np.repeat(part, lengths) for part in (document, branch, first))
        return cls(document, branch, place, np.where(branch == TRUNK, place + 1, limit))

    def filled(self, size: int) -> Self:
        """The same row with tokens behind it up to `size`, as a document of their own."""
        more = size - len(self.document)
        number = int(self.document[-1]) + 1 if len(self.document) else 0
        places = np.arange(self.opening, self.opening + more)
        behind = (np.full(more, number), np.full(more, TRUNK), places, places + 1)
        own = (self.document, self.branch, self.place, self.limit)
        return type(self)(*(np.concatenate(parts) for parts in zip(own, behind, strict=True)))

    @classmethod
    def of_trunks(cls, lengths: Sequence[int]) -> Self:
        """A row of documents without branches."""
        return cls.of([(length, ()) for length in lengths])

    @property
    def opening(self) -> int:
        """Tokens that all documents begin with."""
        return int(np.searchsorted(self.document, 0))

    def bounds(self) -> tuple[IntArray, IntArray, IntArray]:
        """Of every document the row's token it starts at, its trunk's tokens, and all its tokens, int64 [documents] each."""
        count = int(self.document[-1]) + 1 if len(self.document) else 0
        starts = np.searchsorted(self.document, np.arange(count + 1))
        in_trunk = np.concatenate([[0], np.cumsum(self.branch == TRUNK)])
        return starts[:-1], in_trunk[starts[1:]] - in_trunk[starts[:-1]], np.diff(starts)

    def array(self) -> IntArray:
        """The four as one, int64 [4, N]."""
        return np.stack([self.document, self.branch, self.place, self.limit])

    def marks(self, device: torch.device) -> Tensor:
        """The four as a tensor, int64 [4, N]."""
        return torch.from_numpy(self.array()).to(device)
