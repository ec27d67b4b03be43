"""Next-item samples: windows of histories with their targets, as trunks with branches."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pauserec.config import NextItemJob
from pauserec.data.windows import spans
from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.rule import TRUNK
from pauserec.llm.tree.samples import Branch, Row, Sample
from pauserec.records import IntArray
from pauserec.stages.next_item_rows import RowMaker, Window
from pauserec.training.batches import Batches


def windows(user: int, length: int, size: int, overlap: float) -> list[Window]:
    """A user's history of `length` events as windows of at most `size` items (see `spans`)."""
    return [
        Window(user, start, stop, tuple(range(first, stop + 1)), first)
        for start, first, stop in spans(length, size, overlap)
    ]


Besides = Callable[[Sequence[Window], dict[str, Any]], dict[str, Any]]
"""Gives what a batch of some windows holds more than its own keys."""


class NextItemSamples:
    """Makes the samples of a stage from training sequences."""

    def __init__(self, job: NextItemJob, prompts: Prompts, sequences: list[IntArray]) -> None:
        self._stage, self.prompts, self._sequences = job.stage, prompts, sequences
        self._trunk_counts = job.stage.loss_on == "history" or (job.stage.targets == "all" and not prompts.suffix)
        self._rows = RowMaker(
            prompts, sequences, trunk_counts=self._trunk_counts, loss_on_end=bool(job.stage.loss_on_end)
        )
        self._levels = () if job.stage.softmax == "full" else prompts.vocabulary.levels

    def batches(self, besides: Besides = lambda chosen, own: {}) -> Batches[Window]:
        """The plan of the whole stage. besides: what a batch of windows gets more."""
        stage, opening = self._stage, self.prompts.opening

        def make(chosen: Sequence[Window]) -> dict[str, Any]:
            batch = self.row(chosen).batch(self._levels)
            return batch | besides(chosen, batch)

        return Batches(
            self._windows,
            self.length,
            make,
            epochs=stage.epochs,
            batch_tokens=stage.batch_size,
            seed=stage.seed,
            opening=len(opening),
        )

    def batch(self, chosen: Sequence[Window]) -> dict[str, Any]:
        """One batch of windows, as an objective takes it."""
        return self.row(chosen).batch(self._levels)

    def row(self, chosen: Sequence[Window], *, opening: bool = True) -> Row:
        """Windows as one row of tokens."""
        return self._rows.row(chosen, opening=opening)

    def _windows(self, epoch: int, rng: np.random.Generator) -> list[Window]:
        size, stage = self.prompts.form.history_length, self._stage
        found = []
        for user, items in enumerate(self._sequences):
            n = len(items)
            if n < 2:
                continue
            if stage.targets == "last":
                start = self.prompts.start(n - 1)
                found.append(self._thinned(Window(user, start, n - 1, (n - 1,), start + 1), rng))
                continue
            for window in windows(user, n, size, stage.window_overlap):
                found.append(self._thinned(replace(window, targets=self._drawn(window.targets, rng)), rng))
        return found

    def _drawn(self, targets: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        """The targets that get a branch this time; where the trunk carries loss always the newest: the trunk ends before it.

        Where nothing stands before a target, its branch would say again what the trunk says.
        """
        most, newest = self._stage.targets_per_history, targets[-1:] if self._trunk_counts else ()
        if not self.prompts.suffix:
            return newest
        if most is None or len(targets) <= most:
            return targets
        others = rng.choice(targets[: len(targets) - len(newest)], most - len(newest), replace=False)
        return (*sorted(others.tolist()), *newest)

    def _thinned(self, window: Window, rng: np.random.Generator) -> Window:
        if not self._stage.history_dropout:
            return window
        later = np.arange(window.start + 1, window.stop)
        left_out = later[rng.random(len(later)) < self._stage.history_dropout]
        return replace(window, left_out=frozenset(left_out.tolist()))

    def length(self, window: Window) -> int:
        """Tokens that `build` makes of a window; the prompts' opening is no part of it."""
        prompts, items = self.prompts, self._sequences[window.user]
        trunk = sum(len(prompts.entries[items[position]]) for position in window.shown)
        return trunk + len(window.targets) * self._rows.continuation

    def tokens_apart(self, window: Window) -> int:
        """Tokens that the same targets would take as samples of their own, each with a whole prompt."""
        prompts, items = self.prompts, self._sequences[window.user]
        lengths = {position: len(prompts.entries[items[position]]) for position in window.shown}
        around = len(prompts.opening) + self._rows.continuation
        in_trunk = [] if prompts.suffix else [position for position in window.shown if position >= window.fresh]
        targets = (*in_trunk, *window.targets)
        before = [sum(n for position, n in lengths.items() if position < target) for target in targets]
        return sum(around + length for length in before)

    def build(self, window: Window) -> Sample:
        """A window as a sample of its own, without the opening."""
        row = self.row([window], opening=False)
        branch = row.layout.branch
        attach = row.layout.limit
        trunk = branch == TRUNK
        parts = [np.flatnonzero(branch == own) for own in range(int(branch.max()) + 1)]
        branches = tuple(Branch(int(attach[at[0]]), row.tokens[at], row.labels[at]) for at in parts)
        return Sample(row.tokens[trunk], row.labels[trunk], branches)
