"""Full-ranking, item-level evaluation of any Recommender. Every user counts once; none is sampled away unasked."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pauserec.errors import DataError, RecipeError
from pauserec.evaluation.metrics import CUTOFFS, summarise, target_ranks
from pauserec.records import HELD_OUT, Dataset, History, IntArray, Ranking, Recommender, Split
from pauserec.runs import processes
from pauserec.runs.progress import NARROW, WholeColumn

Seen = Literal["keep", "drop"]
USERS_AT_ONCE = 256
"""Users handed to a recommender at once, where it does not say (`at_once`). Fixed on a device, so that a rerun does the same
arithmetic in the same batches."""
BAR_AFTER = 2.0
"""Seconds before a progress bar appears."""


@dataclass(frozen=True)
class Result:
    """What an evaluation found. Rows of `ranks`, `targets` and `top` belong to `user_ids` in order."""

    split: Split
    seen: Seen
    metrics: dict[str, Any]
    """{"hit@5", "hit@10", "ndcg@5", "ndcg@10", "users", "ci95": {metric: [low, high]}}."""
    user_ids: tuple[str, ...]
    targets: IntArray
    ranks: IntArray
    """[n], from 1; 0 where the target is not among the top items."""
    top: IntArray
    """[n, top_k] item numbers as returned, -1 where fewer were legal."""
    seconds: float
    """Wall-clock time inside the recommender."""
    invalid: int
    """Returned item numbers that are not in the catalogue."""
    duplicates: int
    """Returned items that stood in the same list before."""
    repeated_history: int
    """Returned items of the user's own history although seen items were to be dropped."""
    fewer_than_k: int
    """Users with fewer than top_k items."""
    unreachable: int
    """Users whose target is in their history while seen items are dropped: no recommender can hit it."""

    @property
    def ms_per_user(self) -> float:
        """Mean milliseconds per user inside the recommender."""
        return 1000.0 * self.seconds / len(self.user_ids)

    @property
    def decoding(self) -> dict[str, Any]:
        """Cost and faults, as they stand in result.json."""
        return {
            "ms_per_user": round(self.ms_per_user, 3),
            "invalid": self.invalid,
            "duplicates": self.duplicates,
            "repeated_history": self.repeated_history,
            "fewer_than_k": self.fewer_than_k,
            "unreachable": self.unreachable,
        }


def evaluate(
    recommender: Recommender,
    dataset: Dataset,
    split: Split,
    *,
    seen: Seen,
    top_k: int,
    bootstrap: int,
    seed: int = 0,
    users: Sequence[int] | None = None,
    chunk: int | None = None,
    label: str = "evaluating",
    share: bool = True,
) -> Result:
    """Rank the whole catalogue for each user of a split and compare with the held-out item.

    users: positions in `dataset.users` to test; None tests all. seed: of the bootstrap. label: beside the progress bar.
    Of several processes each ranks its part of the users, in equally many chunks, and all get the whole result; without
    `share` each ranks all of them.
    Raises RecipeError if top_k is below the largest cut-off, DataError if no user has a target in this split.
    """
    if top_k < max(CUTOFFS):
        raise RecipeError(f"setting 'evaluation.top_k' is {top_k}: set at least {max(CUTOFFS)}, the metrics' largest k")
    histories = _histories(dataset, split, users)
    if not histories:
        raise DataError(f"no user has a {split} target: the data needs histories of more than {HELD_OUT[split]} items")
    at_once = int(getattr(recommender, "at_once", USERS_AT_ONCE)) if chunk is None else chunk
    shares = _chunks(len(histories), at_once, processes.world() if share else 1)
    own = shares[processes.rank() if share else 0]
    tops: list[IntArray] = []
    seconds = 0.0
    for begin, stop in _progress(own, label):
        inputs = [history.items for history in histories[begin:stop]]
        start = time.perf_counter()
        ranking = recommender.top(inputs, top_k, drop_seen=seen == "drop")
        seconds += time.perf_counter() - start
        if ranking.items.shape != (len(inputs), top_k):
            raise ValueError(f"recommender gave items of shape {ranking.items.shape}, not {(len(inputs), top_k)}")
        tops.append(ranking.items)
    top = np.full((len(histories), top_k), -1, dtype=np.int64)
    for chunks, found in zip(shares, processes.all_gather(tops) if share else [tops], strict=True):
        for (begin, stop), items in zip(chunks, found, strict=True):
            top[begin:stop] = items
    if share:
        seconds = sum(processes.all_gather(seconds))
    return _result(histories, top, dataset, split, seen, seconds, (bootstrap, seed))


def _chunks(users: int, chunk: int, world: int) -> list[list[tuple[int, int]]]:
    """Spans of users that each process ranks: equally many, the last one repeated if need be."""
    size = min(chunk, -(-users // world))
    spans = [(begin, min(begin + size, users)) for begin in range(0, users, size)]
    spans += [spans[-1]] * (-len(spans) % world)
    return [spans[rank::world] for rank in range(world)]


def _histories(dataset: Dataset, split: Split, users: Sequence[int] | None) -> list[History]:
    if users is None:
        return dataset.split(split)
    back = HELD_OUT[split]
    chosen = [(dataset.users[user], dataset.sequences[user]) for user in users]
    return [History(user, items[:-back], int(items[-back])) for user, items in chosen if len(items) > back]


def _result(
    histories: list[History],
    top: IntArray,
    dataset: Dataset,
    split: Split,
    seen: Seen,
    seconds: float,
    bootstrap: tuple[int, int],
) -> Result:
    targets = np.array([history.target for history in histories], dtype=np.int64)
    ranks = target_ranks(Ranking(top, np.zeros(top.shape, dtype=np.float32)), targets)
    inside = (top >= 0) & (top < len(dataset.items))
    ordered = np.sort(top, axis=1)
    dropped = seen == "drop"
    return Result(
        split=split,
        seen=seen,
        metrics=summarise(ranks, *bootstrap),
        user_ids=tuple(history.user_id for history in histories),
        targets=targets,
        ranks=ranks,
        top=top,
        seconds=seconds,
        invalid=int((~inside & (top != -1)).sum()),
        duplicates=int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)).sum()),
        repeated_history=sum(
            int(np.isin(row, h.items).sum()) for row, h in zip(top, histories, strict=True) if dropped
        ),
        fewer_than_k=int((top == -1).any(axis=1).sum()),
        unreachable=sum(bool((h.items == h.target).any()) for h in histories if dropped),
    )


def _progress(spans: list[tuple[int, int]], label: str) -> Iterator[tuple[int, int]]:
    """Go through the chunks; show a bar with the time left once it takes longer than BAR_AFTER."""
    columns = (BarColumn(NARROW), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn(), WholeColumn())
    console = Console(stderr=True)
    bar = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
    task = bar.add_task(label, total=sum(stop - begin for begin, stop in spans))
    start, shown = time.perf_counter(), console.is_terminal and processes.is_main()
    try:
        for begin, stop in spans:
            yield begin, stop
            bar.update(task, advance=stop - begin)
            if shown and time.perf_counter() - start > BAR_AFTER and not bar.live.is_started:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()
