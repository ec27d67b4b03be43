"""Next-item samples: windows of histories with their targets, as trunks with branches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pauserec.config import NextItemJob
from pauserec.data.windows import spans
from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.samples import Branch, Sample, collate, labelled
from pauserec.records import IntArray
from pauserec.training.batches import IGNORE, Batches


@dataclass(frozen=True)
class Window:
    """One sample: a user's items[start:stop] as trunk; targets are positions in the user's sequence, start < t <= stop.

    fresh: items from this position on carry loss in the trunk (loss_on = "history"); earlier ones did in another window.
    left_out: positions whose items the trunk does not show.
    """

    user: int
    start: int
    stop: int
    targets: tuple[int, ...]
    fresh: int
    left_out: frozenset[int] = frozenset()

    @property
    def shown(self) -> list[int]:
        """Positions of the trunk's items."""
        return [position for position in range(self.start, self.stop) if position not in self.left_out]


def windows(user: int, length: int, size: int, overlap: float) -> list[Window]:
    """A user's history of `length` events as windows of at most `size` items (see `spans`)."""
    return [
        Window(user, start, stop, tuple(range(first, stop + 1)), first)
        for start, first, stop in spans(length, size, overlap)
    ]


class NextItemSamples:
    """Makes the samples of a stage from training sequences."""

    def __init__(self, job: NextItemJob, prompts: Prompts, sequences: list[IntArray]) -> None:
        self._stage, self.prompts, self._sequences = job.stage, prompts, sequences
        self._trunk_counts = job.stage.loss_on == "history" or (job.stage.targets == "all" and not prompts.suffix)
        self._answer = len(prompts.answer(0)) if job.stage.loss_on_end else len(prompts.codes[0])

    def batches(self, besides: Callable[[Sequence[Window]], dict[str, Any]] = lambda chosen: {}) -> Batches[Window]:
        """The plan of the whole stage. besides: what a batch of windows gets more."""
        stage, opening = self._stage, self.prompts.opening
        return Batches(
            self._windows,
            self.length,
            lambda chosen: collate([self.build(window) for window in chosen], opening) | besides(chosen),
            epochs=stage.epochs,
            batch_tokens=stage.batch_tokens,
            seed=stage.seed,
            opening=len(opening),
        )

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
        return trunk + len(window.targets) * (len(prompts.suffix) + self._answer - 1)

    def tokens_apart(self, window: Window) -> int:
        """Tokens that the same targets would take as samples of their own, each with a whole prompt."""
        prompts, items = self.prompts, self._sequences[window.user]
        lengths = {position: len(prompts.entries[items[position]]) for position in window.shown}
        around = len(prompts.opening) + len(prompts.suffix) + self._answer - 1
        in_trunk = [] if prompts.suffix else [position for position in window.shown if position >= window.fresh]
        targets = (*in_trunk, *window.targets)
        before = [sum(n for position, n in lengths.items() if position < target) for target in targets]
        return sum(around + length for length in before)

    def build(self, window: Window) -> Sample:
        """A window as a sample. With a single target at its end, the target stands in the trunk itself."""
        items, prompts = self._sequences[window.user], self.prompts
        trunk: list[int] = []
        marks: list[bool] = []
        ends = {}
        for position in range(window.start, window.stop):
            if position not in window.left_out:
                entry = prompts.entries[items[position]]
                counts = self._trunk_counts and position >= window.fresh
                trunk += entry
                marks += [counts and prompts.is_code(token) for token in entry]
            ends[position + 1] = len(trunk)
        if window.targets == (window.stop,):
            answer, answer_marks = self._continuation(items[window.stop])
            return Sample(*labelled(trunk + answer, marks + answer_marks))
        labels = np.where([*marks[1:], False], np.asarray([*trunk[1:], 0]), IGNORE)
        branches = [Branch(ends[t], *labelled(*self._continuation(items[t]))) for t in window.targets]
        return Sample(np.asarray(trunk, dtype=np.int64), labels, tuple(branches))

    def _continuation(self, target: int) -> tuple[list[int], list[bool]]:
        suffix, answer = self.prompts.suffix, self.prompts.answer(target)
        if self._stage.loss_on_end:  # on `<|sid_begin|>` too, where that and no pause comes before the answer
            begins = suffix[-1:] == [self.prompts.vocabulary.begin]
            return suffix + answer, [False] * (len(suffix) - begins) + [True] * (begins + len(answer))
        codes = [self.prompts.is_code(token) for token in answer]
        return suffix + answer, [False] * len(suffix) + codes
