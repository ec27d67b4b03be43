"""Ranking metrics from ranks. Pure functions; a rank counts from 1, and 0 stands for a miss.

With one target per user, recall@k equals hit@k and the ideal DCG is 1, so NDCG@k is 1/log2(rank + 1) for rank <= k.
Source: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pauserec.records import IntArray, Ranking

Values = npt.NDArray[np.float64]
CUTOFFS = (5, 10)
METRICS = tuple(f"{name}@{k}" for name in ("hit", "ndcg") for k in CUTOFFS)
"""Names of the metrics every table holds, in its order."""


def target_ranks(ranking: Ranking, targets: IntArray) -> IntArray:
    """Position from 1 of each target in its row of `ranking.items` [n, k]; 0 if absent. targets: [n] -> [n]."""
    if ranking.items.shape[1] == 0:
        return np.zeros(len(targets), dtype=np.int64)
    found = ranking.items == targets[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0).astype(np.int64)


def hit_at(ranks: IntArray, k: int) -> Values:
    """1.0 per user whose target is among the first k, else 0.0. ranks: [n] -> [n]."""
    return ((ranks > 0) & (ranks <= k)).astype(np.float64)


def ndcg_at(ranks: IntArray, k: int) -> Values:
    """NDCG@k per user, in [0, 1]. ranks: [n] -> [n]."""
    return hit_at(ranks, k) / np.log2(np.maximum(ranks, 1) + 1.0)


def per_user(ranks: IntArray) -> Values:
    """The columns of METRICS for each user. ranks: [n] -> [n, 4]."""
    return np.column_stack([{"hit": hit_at, "ndcg": ndcg_at}[name](ranks, int(k)) for name, k in _parts()])


def bootstrap_ci(values: Values, resamples: int, seed: int = 0, level: float = 0.95) -> Values:
    """Percentile bootstrap interval of the mean over users. values: [n, m] -> [m, 2] (low, high).

    Drawing n users with replacement is drawing a multinomial over the distinct rows, which is what is done: users with
    the same rank are the same row, so the cost does not grow with the number of users.
    Raises ValueError without users or resamples.
    """
    if len(values) == 0 or resamples < 1:
        raise ValueError("a bootstrap needs at least one user and one resample")
    rows, counts = np.unique(values, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / counts.sum(), size=resamples)
    means = draws @ rows / len(values)
    tail = (1 - level) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def summarise(ranks: IntArray, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Means over users and their 95% intervals: {"hit@5", ..., "users", "ci95": {metric: [low, high]}}. ranks: [n]."""
    values = per_user(ranks)
    means = values.mean(axis=0)
    intervals = bootstrap_ci(values, resamples, seed)
    return {
        **{name: float(mean) for name, mean in zip(METRICS, means, strict=True)},
        "users": len(ranks),
        "ci95": {name: [float(low), float(high)] for name, (low, high) in zip(METRICS, intervals, strict=True)},
    }


def _parts() -> list[tuple[str, str]]:
    return [(name, k) for name, _, k in (metric.partition("@") for metric in METRICS)]
