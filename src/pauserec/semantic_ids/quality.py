"""How good a set of semantic IDs is, in numbers a report can show."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pauserec.records import IntArray

_SHARED = 0.95  # a category that this share of the items has tells them apart no more


def report(
    codes: IntArray,
    sizes: tuple[int, ...],
    nearest: IntArray | None = None,
    categories: Sequence[tuple[str, ...]] | None = None,
) -> dict[str, Any]:
    """Quality of the final `codes` [n, L] given the `nearest` codes [n, L or L - 1] before collisions were resolved.

    collision_rate_*: 1 - distinct IDs / items. perplexity: exp of the entropy of a level's codes. prefix_purity:
    share of the items that have their prefix's most frequent top category, one number per prefix length; the same with
    categories shuffled over the items is `prefix_purity_shuffled` (short groups are pure by chance).
    """
    counts = [np.bincount(codes[:, level], minlength=size) for level, size in enumerate(sizes)]
    result: dict[str, Any] = {
        "items": len(codes),
        "sizes": list(sizes),
        "collision_rate_before": None if nearest is None else collision_rate(nearest),
        "collision_rate_after": collision_rate(codes),
        "items_moved": 0 if nearest is None else int((codes[:, : nearest.shape[1]] != nearest).any(axis=1).sum()),
        "codes_used": [int((count > 0).sum()) for count in counts],
        "perplexity": [round(perplexity(count), 3) for count in counts],
        "prefix_purity": None,
        "prefix_purity_shuffled": None,
    }
    labels = top_categories(categories or [()] * len(codes))
    known = np.flatnonzero(labels >= 0)
    if len(known):
        shuffled = np.random.default_rng(0).permutation(labels[known])
        result["prefix_purity"] = purity(codes[known], labels[known])
        result["prefix_purity_shuffled"] = purity(codes[known], shuffled)
    return result


def collision_rate(codes: IntArray) -> float:
    """1 - distinct rows / rows."""
    return 1 - len(np.unique(codes, axis=0)) / len(codes) if len(codes) else 0.0


def perplexity(counts: npt.NDArray[np.int64]) -> float:
    """Number of codes that would be as hard to guess if all were equally frequent: 1 to len(counts)."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(share * np.log(share)).sum()))


def purity(codes: IntArray, labels: IntArray) -> list[float]:
    """Share of the items with their prefix's most frequent label, per prefix length 1..L. labels: int64 [n] from 0."""
    result = []
    for length in range(1, codes.shape[1] + 1):
        _, group = np.unique(codes[:, :length], axis=0, return_inverse=True)
        pairs, count = np.unique(np.column_stack((group.reshape(-1), labels)), axis=0, return_counts=True)
        best = np.zeros(pairs[-1, 0] + 1, dtype=np.int64)
        np.maximum.at(best, pairs[:, 0], count)
        result.append(round(float(best.sum() / len(labels)), 4))
    return result


def top_categories(categories: Sequence[tuple[str, ...]]) -> IntArray:
    """Label of each item's most general category that tells items apart, int64 [n]; -1 for items without one.

    Leading categories that nearly all items share ("Beauty" in a beauty shop) are passed over.
    """
    depth = 0
    while True:
        at_depth = [path[depth] for path in categories if len(path) > depth]
        if not at_depth:
            depth = max(0, depth - 1)
            break
        if Counter(at_depth).most_common(1)[0][1] < _SHARED * len(at_depth):
            break
        depth += 1
    names = {name: n for n, name in enumerate(sorted({path[depth] for path in categories if len(path) > depth}))}
    return np.array([names[path[depth]] if len(path) > depth else -1 for path in categories], dtype=np.int64)
