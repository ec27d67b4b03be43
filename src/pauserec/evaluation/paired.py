"""What a comparison of rankings rests on: paired tests over users, coverage, popularity. Pure functions.

Source of the test: Fisher's randomisation test, recommended for retrieval by Smucker, Allan & Carterette, CIKM 2007.
"""

from collections.abc import Sequence

import numpy as np

from pauserec.evaluation.metrics import Values
from pauserec.records import Dataset, IntArray

DRAWS = 10_000


def paired_p_value(differences: Values, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference between two models on the same users. differences: [n].

    Under the null hypothesis each user's difference could as well have the other sign. Users with the same absolute
    difference are drawn together (a binomial number of them is positive), so the cost does not grow with the users.
    Never 0: the observed assignment counts as one of the draws.
    """
    differences = differences.round(12)  # means over seeds differ in their last bits alone
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    rng, reached = np.random.default_rng(seed), 0
    for begin in range(0, draws, 1000):
        positive = rng.binomial(counts, 0.5, size=(min(1000, draws - begin), len(counts)))
        reached += int((np.abs((2 * positive - counts) @ sizes) >= abs(differences.sum()) - 1e-9).sum())
    return (reached + 1) / (draws + 1)


def coverage(lists: Sequence[Sequence[int]], items: int, k: int = 10) -> float:
    """Share of the catalogue that stands in some user's first k. lists: item numbers per user, best first."""
    shown = {item for row in lists for item in row[:k]}
    return len(shown) / items


def mean_popularity(lists: Sequence[Sequence[int]], counts: IntArray, k: int = 10) -> float:
    """Mean popularity percentile of the items in the users' first k: 0.5 for items drawn evenly, 1 for the most popular.

    counts: training events per item, [items]; items with equal counts share the middle of their ranks.
    """
    _, group, sizes = np.unique(counts, return_inverse=True, return_counts=True)
    below = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    percentile = (below + (sizes + 1) / 2)[group] / (len(counts) + 1)
    shown = [item for row in lists for item in row[:k]]
    return float(percentile[shown].mean()) if shown else 0.0


def slices(dataset: Dataset, counts: IntArray) -> dict[str, np.ndarray]:
    """Which test users belong to each slice, bool [n]. counts: training events per item.

    Head items are the fifth of the catalogue with the most training events; cold items have none. Same-day targets
    were chosen on the day of the event before: a basket more than a next wish. Users without one of the two days are in
    neither slice; where there are some, they are a slice of their own.
    """
    histories = dataset.split("test")
    targets = np.array([history.target for history in histories])
    order = np.argsort(-counts, kind="stable")
    head = np.zeros(len(counts), dtype=bool)
    head[order[: max(1, len(counts) // 5)]] = True
    length = np.array([len(history.items) for history in histories])
    found = {
        "head items": head[targets],
        "tail items": ~head[targets],
        "cold items": counts[targets] == 0,
        "short histories (at most 5)": length <= 5,
        "long histories (more than 10)": length > 10,
    }
    if dataset.days is not None:
        before, day = np.array([days[-2:] for days in dataset.days]).T
        known = (before >= 0) & (day >= 0)
        found |= {"same-day targets": known & (day == before), "later targets": known & (day != before)}
        found |= {} if known.all() else {"undated targets": ~known}
    return found
