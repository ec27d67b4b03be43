"""Windows of histories as one row of tokens, by array operations: making a batch must not keep a GPU waiting.

Shapes: W windows, E shown entries of all windows, K continuations of all windows, C tokens of a continuation, N of the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.rule import OPENING, TRUNK, Layout
from pauserec.llm.tree.samples import Row
from pauserec.records import BoolArray, IntArray
from pauserec.training.batches import IGNORE


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


class RowMaker:
    """Makes rows of windows. trunk_counts: whether the trunk's own codes are targets. loss_on_end: whether ends of IDs are."""

    def __init__(
        self, prompts: Prompts, sequences: Sequence[IntArray], *, trunk_counts: bool, loss_on_end: bool
    ) -> None:
        self._trunk_counts = trunk_counts
        self.opening = np.asarray(prompts.opening, dtype=np.int64)
        lengths = np.array([len(items) for items in sequences], dtype=np.int64)
        self._first = lengths.cumsum() - lengths
        self._items = np.concatenate([np.zeros(0, dtype=np.int64), *sequences])
        self._entry_lengths = np.array([len(entry) for entry in prompts.entries], dtype=np.int64)
        self._entry_first = self._entry_lengths.cumsum() - self._entry_lengths
        self._entries = np.fromiter((token for entry in prompts.entries for token in entry), dtype=np.int64)
        self._entry_codes = _is_code(self._entries, prompts)
        answers = np.array(prompts.codes, dtype=np.int64)
        if loss_on_end:
            tail = prompts.answer(0)[answers.shape[1] :]
            answers = np.concatenate([answers, np.broadcast_to(tail, (len(answers), len(tail)))], axis=1)
        self._answers = answers
        self._suffix = np.asarray(prompts.suffix, dtype=np.int64)
        # on `<|sid_begin|>` too, where that and no pause comes before the answer
        begins = loss_on_end and prompts.suffix[-1:] == [prompts.vocabulary.begin]
        counts = np.full(len(self._suffix) + self._answers.shape[1], True)
        counts[: len(self._suffix) - begins] = False
        self._counts = counts
        """Which tokens of a continuation, suffix and answer, are targets."""

    @property
    def continuation(self) -> int:
        """Tokens of a continuation, the last of which is a label only."""
        return len(self._counts) - 1

    def row(self, windows: Sequence[Window], *, opening: bool = True) -> Row:
        """One row: the opening, then document after document. A single target at a window's end stands in the trunk itself."""
        first = len(self.opening) if opening else 0
        own, position, fresh = _entries_of(windows)
        item = self._items[self._first[[window.user for window in windows]][own] + position]
        lengths = self._entry_lengths[item]
        before = np.concatenate([[0], lengths.cumsum()])
        entries = np.concatenate([[0], np.bincount(own, minlength=len(windows)).cumsum()])
        trunks = before[entries[1:]] - before[entries[:-1]]
        number = np.array([len(window.targets) for window in windows])
        totals = trunks + number * self.continuation
        starts = first + totals.cumsum() - totals

        size = first + int(totals.sum())
        tokens, labels = np.empty(size, dtype=np.int64), np.full(size, IGNORE)
        tokens[:first] = self.opening[:first]
        source = _ragged(self._entry_first[item], lengths)
        goal = np.repeat(starts - before[entries[:-1]], trunks) + np.arange(before[-1])
        tokens[goal] = self._entries[source]
        if self._trunk_counts:
            marked = self._entry_codes[source] & np.repeat(fresh, lengths)
            marked[before[entries[:-1]]] = False  # nothing of the row stands before a trunk's first token
            labels[goal[marked] - 1] = tokens[goal[marked]]
        attach, inside = self._continue(windows, number, starts, trunks, (before, entries, position), tokens, labels)
        return Row(tokens, labels, _layout(first, totals, trunks, number, attach, inside, self.continuation))

    def _continue(
        self,
        windows: Sequence[Window],
        number: IntArray,
        starts: IntArray,
        trunks: IntArray,
        shown: tuple[IntArray, IntArray, IntArray],
        tokens: IntArray,
        labels: IntArray,
    ) -> tuple[IntArray, BoolArray]:
        """Write every target's suffix and answer.

        shown: tokens before every entry, entries before every window, each entry's position. Gives the trunk's tokens that
        each continuation follows [K], and of which windows the only one stands in the trunk itself [W].
        """
        owner = np.repeat(np.arange(len(windows)), number)
        target = np.fromiter((target for window in windows for target in window.targets), np.int64, len(owner))
        inside = np.array([window.targets == (window.stop,) for window in windows])
        before, entries, position = shown
        span = int(position.max(initial=0)) + 2
        # entries are sorted by window and position, so that one search finds for every target the first entry not before it
        window_of_entry = np.repeat(np.arange(len(windows)), np.diff(entries))
        place = np.searchsorted(window_of_entry * span + position, owner * span + np.minimum(target, span - 1))
        attach = before[place] - before[entries[owner]]
        answers = self._answers[self._items[self._first[[window.user for window in windows]][owner] + target]]
        whole = np.concatenate([np.broadcast_to(self._suffix, (len(owner), len(self._suffix))), answers], axis=1)
        rank = np.arange(len(owner)) - (number.cumsum() - number)[owner]
        begin = starts[owner] + trunks[owner] + rank * self.continuation
        goal = begin[:, None] + np.arange(self.continuation)
        tokens[goal] = whole[:, :-1]
        labels[goal] = np.where(self._counts[1:], whole[:, 1:], IGNORE)
        if self._counts[0]:
            follows = inside[owner]
            labels[begin[follows] - 1] = whole[follows, 0]
        return attach, inside


def _entries_of(windows: Sequence[Window]) -> tuple[IntArray, IntArray, BoolArray]:
    """Of every shown entry: its window, its position in the user's sequence, whether it carries loss [E] each."""
    spans = np.array([(window.start, window.stop, window.fresh) for window in windows], dtype=np.int64).reshape(-1, 3)
    start, stop, fresh = spans.T
    own = np.repeat(np.arange(len(windows), dtype=np.int64), stop - start)
    position = _ragged(start, stop - start)
    thinned = [number for number, window in enumerate(windows) if window.left_out]
    if thinned:
        span = int(stop.max()) + 1
        left_out = [number * span + place for number in thinned for place in windows[number].left_out]
        kept = ~np.isin(own * span + position, left_out)
        own, position = own[kept], position[kept]
    return own, position, position >= fresh[own]


def _layout(
    first: int,
    totals: IntArray,
    trunks: IntArray,
    number: IntArray,
    attach: IntArray,
    inside: BoolArray,
    continuation: int,
) -> Layout:
    """Who sees whom in such a row (llm/tree/rule.py)."""
    whole = np.where(inside, totals, trunks)  # of each trunk, a target that stands in it included
    apart = np.repeat(~inside, number)
    owner = np.repeat(np.arange(len(totals)), number)[apart]
    rank = (np.arange(len(apart)) - np.repeat(number.cumsum() - number, number))[apart]
    stretches = np.argsort(np.concatenate([np.arange(len(totals)), owner]), kind="stable")
    lengths = np.concatenate([whole, np.full(len(owner), continuation)])[stretches]
    document = np.concatenate([np.arange(len(totals)), owner])[stretches]
    branch = np.concatenate([np.full(len(totals), TRUNK), rank])[stretches]
    start = np.concatenate([np.full(len(totals), first), first + attach[apart]])[stretches]
    if first:
        lengths, document, branch, start = (
            np.concatenate([[value], part])
            for value, part in zip((first, OPENING, TRUNK, 0), (lengths, document, branch, start), strict=True)
        )
    return Layout.of_stretches(lengths, document, branch, start)


def _is_code(tokens: IntArray, prompts: Prompts) -> BoolArray:
    vocabulary = prompts.vocabulary
    codes: BoolArray = (tokens >= vocabulary.code_offsets[0]) & (tokens < vocabulary.pause)
    return codes


def _ragged(first: IntArray, lengths: IntArray) -> IntArray:
    """first[0], first[0] + 1, ... for lengths[0] numbers, then from first[1] on, and so forth."""
    ends = lengths.cumsum()
    count = int(ends[-1]) if len(ends) else 0
    ranged = np.arange(count, dtype=np.int64)
    ranged += np.repeat(first - (ends - lengths), lengths)
    return ranged
