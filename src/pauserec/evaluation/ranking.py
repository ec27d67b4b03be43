"""From a score for every item to the k best: the one place where ties are broken."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pauserec.records import IntArray, Offer, Ranking

HISTORIES_AT_ONCE = 256
"""Histories scored at once: bounds the dense score matrix to HISTORIES_AT_ONCE x items."""
FEW = 32
"""Histories ranked at once among their candidates: the fewer, the fewer these are."""


def ranked(
    histories: Sequence[IntArray],
    k: int,
    score: Callable[[Sequence[IntArray]], npt.NDArray[np.floating]],
    *,
    drop_seen: bool,
    offer: Offer | None,
) -> Ranking:
    """The k best items of each history by `score`, which gives [n, items] for n histories that it may write to."""
    found = [Ranking(np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32))]
    for begin in range(0, len(histories), HISTORIES_AT_ONCE):
        rows = range(begin, min(begin + HISTORIES_AT_ONCE, len(histories)))
        part = [histories[row] for row in rows]
        scores = score(part)
        withhold(scores, part, drop_seen, offer.rows(rows) if offer else None)
        found.append(best_items(scores, k))
    return Ranking(np.concatenate([f.items for f in found]), np.concatenate([f.scores for f in found]))


def ranked_among(
    histories: Sequence[IntArray],
    k: int,
    candidates: Callable[[Sequence[IntArray], int], tuple[IntArray, npt.NDArray[np.floating]]],
    *,
    items: int,
    drop_seen: bool,
    offer: Offer | None,
) -> Ranking:
    """`ranked` without looking at the whole catalogue for each history.

    candidates: gives, for n histories and a number, item numbers in order [m] and their scores [n, m], which may be written
    to: all items whose place depends on the history, and so many of the best of the others.
    """
    found = [Ranking(np.empty((0, k), dtype=np.int64), np.empty((0, k), dtype=np.float32))]
    for begin in range(0, len(histories), FEW):
        rows = range(begin, min(begin + FEW, len(histories)))
        part, limits = [histories[row] for row in rows], offer.rows(rows) if offer else Offer()
        limits = limits.without(part) if drop_seen else limits
        # no list reaches further down than k and what is denied
        alone = any(numbers is not None for numbers in limits.allow or ())
        needed = items if alone else k + max(map(len, limits.deny or ()), default=0)
        columns, scores = candidates(part, needed)
        allow = limits.allow and [None if numbers is None else _places(columns, numbers) for numbers in limits.allow]
        deny = limits.deny and [_places(columns, numbers) for numbers in limits.deny]
        withhold(scores, part, drop_seen=False, offer=Offer(allow, deny))
        best = best_items(scores, k)
        found.append(Ranking(np.where(best.items >= 0, columns[best.items], -1), best.scores))
    return Ranking(np.concatenate([f.items for f in found]), np.concatenate([f.scores for f in found]))


def _places(columns: IntArray, numbers: IntArray) -> IntArray:
    """Where in `columns`, which are in order, those of the numbers stand that do."""
    places = np.minimum(np.searchsorted(columns, numbers), len(columns) - 1)
    found: IntArray = places[columns[places] == numbers]
    return found


def best_items(scores: npt.NDArray[np.floating], k: int) -> Ranking:
    """The k highest scores of each row; equal scores go by the smaller item number. scores: [n, items], -inf = never.

    Item numbers carry no information (`Dataset.items` is sorted by a hash), so the tie rule favours nobody.
    Rows with fewer than k finite scores end in item -1 with score -inf.
    """
    n, items = scores.shape
    width = min(k, items)
    numbers = np.full((n, k), -1, dtype=np.int64)
    values = np.full((n, k), -np.inf, dtype=np.float32)
    if width == 0 or n == 0:
        return Ranking(numbers, values)
    threshold = np.partition(scores, items - width, axis=1)[:, items - width, None]
    kept = scores >= threshold
    # among the items that tie at the threshold argpartition alone would keep an arbitrary choice
    crowded = np.flatnonzero(np.count_nonzero(kept, axis=1) > width)
    if len(crowded):
        above, tied = scores[crowded] > threshold[crowded], scores[crowded] == threshold[crowded]
        room = width - above.sum(axis=1, keepdims=True)
        kept[crowded] = above | (tied & (np.cumsum(tied, axis=1) <= room))
    chosen = (np.flatnonzero(kept) % items).reshape(n, width)
    chosen_scores = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-chosen_scores, axis=1, kind="stable")
    numbers[:, :width] = np.take_along_axis(chosen, order, axis=1)
    values[:, :width] = np.take_along_axis(chosen_scores, order, axis=1)
    numbers[np.isneginf(values)] = -1
    return Ranking(numbers, values)


def withhold(
    scores: npt.NDArray[np.floating], histories: Sequence[IntArray], drop_seen: bool, offer: Offer | None
) -> None:
    """Set each row's scores of the items that may not be returned to -inf, in place. scores: [n, items]."""
    for row, allowed in enumerate((offer and offer.allow) or ()):
        if allowed is not None:
            kept = scores[row, allowed]
            scores[row] = -np.inf
            scores[row, allowed] = kept
    lists = [histories] if drop_seen else []
    if offer and offer.deny is not None:
        lists.append(offer.deny)
    for denied in lists:
        rows = np.repeat(np.arange(len(denied)), [len(numbers) for numbers in denied])
        if len(rows):
            scores[rows, np.concatenate(denied)] = -np.inf
