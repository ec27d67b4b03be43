"""Every item its own ID: what happens to items whose nearest codes are the same.

`reassign` moves all but one to the nearest free last-level code under their prefix; where a prefix is full, to the
next-nearest code one level up, and so on. `digit` leaves the codes alone and adds a level that counts the members.
The ties of a group go to the item closest to its centroid, then to the lower item number: the result is deterministic.
"""

from collections import Counter
from collections.abc import Iterable
from math import prod

import numpy as np

from pauserec.errors import SemanticIdError
from pauserec.records import FloatArray, IntArray
from pauserec.semantic_ids.codebooks import Codebooks, squared_distances

MAX_LEVELS = 8
_DIGIT_STEP = 8  # a digit level is rounded up to a multiple of this, room for items added later
_MAX_DIGIT = 65536


def check_capacity(items: int, sizes: tuple[int, ...]) -> None:
    """Raise SemanticIdError unless `items` unique IDs fit the levels."""
    if prod(sizes) < items:
        raise SemanticIdError(
            f"quantizer.codebook_sizes {list(sizes)} has {prod(sizes)} IDs for {items} items: raise one or add a level"
        )


def reassign(
    latents: FloatArray, codes: IntArray, errors: FloatArray, codebooks: Codebooks, sizes: tuple[int, ...]
) -> IntArray:
    """Unique codes, int64 [n, levels], from nearest codes [n, levels] and their errors [n]. Raises SemanticIdError."""
    check_capacity(len(codes), sizes)
    unique = codes.copy()
    rank = ranks_within_groups(codes, errors)
    taken = FreeCodes(sizes, codes[rank == 0])
    moved = np.flatnonzero(rank > 0)
    for number in moved[np.lexsort((moved, errors[moved]))]:
        unique[number] = taken.take_nearest(latents[number], codebooks)
    return unique


def add_digit(codes: IntArray, errors: FloatArray) -> tuple[IntArray, int]:
    """Codes with one more level that counts the members of each group: int64 [n, levels + 1], and that level's size."""
    if codes.shape[1] >= MAX_LEVELS:
        raise SemanticIdError(
            f"quantizer.collisions = 'digit' adds a level to {MAX_LEVELS} in quantizer.codebook_sizes: drop one level"
        )
    rank = ranks_within_groups(codes, errors)
    largest = int(rank.max(initial=0)) + 1
    if largest > _MAX_DIGIT:
        raise SemanticIdError(
            f"{largest} items share one ID, too many for a digit: raise quantizer.codebook_sizes or give items text"
        )
    return np.column_stack((codes, rank)), -(-largest // _DIGIT_STEP) * _DIGIT_STEP


def ranks_within_groups(codes: IntArray, errors: FloatArray) -> IntArray:
    """Place of each item among those with equal codes, 0 = closest to its centroid: int64 [n]."""
    n = len(codes)
    if not n:
        return np.zeros(0, dtype=np.int64)
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.lexsort((np.arange(n), errors, group))
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
    lengths = np.diff(np.r_[starts, n])
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n) - np.repeat(starts, lengths)
    return rank


class FreeCodes:
    """Which IDs are taken, counted per prefix, so that a full prefix is known without looking below it."""

    def __init__(self, sizes: tuple[int, ...], taken: IntArray) -> None:
        self.sizes = sizes
        self.room = [prod(sizes[level + 1 :]) for level in range(len(sizes))]
        self.used: Counter[tuple[int, ...]] = Counter()
        for row in taken.tolist():
            self._take(row)

    def take_nearest(self, latent: FloatArray, codebooks: Codebooks) -> list[int]:
        """The first free ID in nearest-first order, taken. latent: [d]. Raises SemanticIdError when all are taken.

        A level beyond the codebooks (the digit), and a code without a centroid, come after all others, in code order.
        """
        prefix: list[int] = []
        residual = latent
        for level, size in enumerate(self.sizes):
            centroids = codebooks.levels[level] if level < len(codebooks.levels) else residual[None, :][:0]
            near = np.argsort(squared_distances(residual[None, :], centroids)[0], kind="stable")
            code = self._first_free(prefix, level, (*near.tolist(), *range(len(near), size)))
            if code < len(centroids):
                residual = residual - centroids[code]
            prefix.append(code)
        self._take(prefix)
        return prefix

    def _first_free(self, prefix: list[int], level: int, candidates: Iterable[int]) -> int:
        for code in candidates:
            if self.used[(*prefix, code)] < self.room[level]:
                return code
        raise SemanticIdError(
            f"all {prod(self.sizes)} semantic IDs are taken: raise quantizer.codebook_sizes and redo semantic_ids"
        )

    def _take(self, codes: list[int]) -> None:
        for length in range(1, len(codes) + 1):
            self.used[tuple(codes[:length])] += 1
