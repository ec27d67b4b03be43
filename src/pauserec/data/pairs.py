"""Pairs of items that stand near one another in histories."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pauserec.records import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy import sparse


def weighted_pairs(sequences: Sequence[IntArray], items: int, weights: "FloatArray | np.ndarray") -> "sparse.csr_array":
    """Sums over pairs (earlier, later) of different items in one sequence: CSR [items, items], float64.

    weights: of a pair d positions apart, weights[d - 1]; pairs further apart than there are weights do not count.
    One distance is added at a time, so that the pairs of all are never held together.
    """
    from scipy import sparse

    events = np.concatenate([np.zeros(0, dtype=np.int64), *sequences])
    owner = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    total = sparse.csr_array((items, items), dtype=np.float64)
    for distance, weight in enumerate(weights, 1):
        left, right = events[:-distance], events[distance:]
        pair = (owner[:-distance] == owner[distance:]) & (left != right)
        values = np.full(int(pair.sum()), weight, dtype=np.float64)
        total = total + sparse.coo_array((values, (left[pair], right[pair])), shape=total.shape).tocsr()
    return total
