"""What a person sees of a run while it goes on: how far the whole is, and what a long step does."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pauserec.runs import processes
from pauserec.runs.budget import pace

T = TypeVar("T")
NARROW = 12
"""Letters of a bar: what the whole run does stands beside it."""


class WholeRun:
    """How far a run is. expected: seconds by step, as far as they are known."""

    def __init__(self, steps: Sequence[str], expected: Mapping[str, float]) -> None:
        self._steps, self._expected = list(steps), expected
        self._seconds: dict[str, float] = {}
        self._now, self._since = "", time.perf_counter()

    def begin(self, step: str, seconds: Mapping[str, float]) -> None:
        """A step begins. seconds: what each finished step took, all attempts together."""
        self._now, self._since, self._seconds = step, time.perf_counter(), dict(seconds)

    def line(self) -> str:
        """Steps done of how many, the time they took, and the time that is left where it is known."""
        running = time.perf_counter() - self._since if self._now else 0.0
        spent = sum(self._seconds.values()) + running
        number = min(len(self._steps), len(self._seconds) + bool(self._now))
        text = f"step {number}/{len(self._steps)}, {clock(spent)} done"
        if self._expected:
            slower = pace(self._expected, self._seconds)
            coming = set(self._steps) - self._seconds.keys() - {self._now}
            left = slower * sum(self._expected.get(step, 0.0) for step in coming)
            left += max(0.0, slower * self._expected.get(self._now, 0.0) - running)
            text += f", about {clock(left)} left"
        return text


_whole: WholeRun | None = None


@contextmanager
def whole_run(steps: Sequence[str], expected: Mapping[str, float]) -> Iterator[WholeRun]:
    """While entered, every bar also says how far the whole run is."""
    global _whole
    before, _whole = _whole, WholeRun(steps, expected)
    try:
        yield _whole
    finally:
        _whole = before


class WholeColumn(ProgressColumn):
    """How far the whole run is, at the end of a step's bar."""

    def render(self, task: Task) -> Text:
        """See ProgressColumn.render."""
        return Text(f"· {_whole.line()}" if _whole else "", style="dim", no_wrap=True, overflow="ellipsis")


def track(items: Sequence[T], description: str, *, shown: bool = True) -> Iterable[T]:
    """Go through the items of a step; a terminal shows a bar and how far the whole run is. shown: where it takes long."""
    columns = (TextColumn("{task.description}"), BarColumn(NARROW), MofNCompleteColumn(), WholeColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not (shown and processes.is_main())) as bar:
        yield from bar.track(items, description=description)


def clock(seconds: float) -> str:
    """Seconds as minutes: 0:07, 12:30, 1:02:00."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class StepBar:
    """A bar of optimizer steps with the last loss and the time left, shown by the first process while it is entered."""

    def __init__(self, name: str, steps: int, done: int) -> None:
        columns = (BarColumn(NARROW), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
        description = TextColumn("{task.description}")
        self._bar = Progress(description, *columns, WholeColumn(), console=Console(stderr=True))
        self._task = self._bar.add_task(name, total=steps, completed=done, loss="")

    def __enter__(self) -> Self:
        if processes.is_main():
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, step: int, loss: float) -> None:
        """A step is done."""
        self._bar.update(self._task, completed=step, loss=f"loss {loss:.3f}")
