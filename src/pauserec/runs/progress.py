"""What a person sees of a step that takes long."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pauserec.runs import processes


class StepBar:
    """A bar of optimizer steps with the last loss and the time left, shown by the first process while it is entered."""

    def __init__(self, name: str, steps: int, done: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
        self._bar = Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True))
        self._task = self._bar.add_task(f"{name:<16}", total=steps, completed=done, loss="")

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
