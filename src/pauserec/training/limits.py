"""What ends a training before its last step: its minutes are over, or it is broken."""

import math
import time
from collections import deque

from pauserec.config import TrainingSettings
from pauserec.errors import PauserecError
from pauserec.runs import processes
from pauserec.training.checkpoints import Clock

MEASURED = 20
"""Optimizer steps after which the time of the rest is judged, and losses whose mean says whether a training is broken."""

FALLING = 0.01
"""A loss that falls by at least this share within so many steps is on its way, however high it is."""


class TimeLimit:
    """Fits a training into `settings.minutes`: where its steps would take longer, its schedule is shortened to those that fit.

    The learning rate then ends where it would have ended after all steps, so that a slow machine gives a finished model too.
    """

    def __init__(self, settings: TrainingSettings, steps: int, clock: Clock) -> None:
        self._seconds = None if settings.minutes is None else 60 * settings.minutes
        self._steps, self._clock, self._validation = steps, clock, 0.0

    def step_done(self, step: int) -> None:
        """Judge after a step how many still fit."""
        if self._seconds is None or step < min(MEASURED, self._steps):
            return
        elapsed = processes.broadcast(self._clock.seconds)
        fit = max(0.0, (self._seconds - elapsed - self._validation) / (elapsed / step))
        left = self._steps - step
        if self._clock.progress is not None:
            share = 1 / max(1.0, min(left, fit) + 1)
            self._clock.progress = 1.0 if fit < 1 else self._clock.progress + (1 - self._clock.progress) * share
        elif fit < left:
            self._clock.progress = step / self._steps if fit >= 1 else 1.0

    def validated(self, seconds: float) -> None:
        """A validation took this long: the last one must fit too."""
        self._validation = seconds

    def is_up(self) -> bool:
        """Whether the time is over."""
        return self._clock.progress == 1.0

    def scheduled(self, step: int) -> float:
        """The step that the learning rate's schedule has reached."""
        return step if self._clock.progress is None else self._clock.progress * self._steps


class SaveTimes:
    """When a checkpoint is due: every `save_every` steps, and when `save_minutes` are over since the last."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._every, self._seconds, self._last = settings.save_every, 60 * settings.save_minutes, time.perf_counter()

    def due(self, step: int) -> bool:
        """Whether to save after this step. Several processes ask the first one what time it is, and not every step."""
        if self._every is not None and step % self._every == 0:
            return True
        if processes.world() > 1 and step % MEASURED:
            return False
        return processes.broadcast(lambda: time.perf_counter() - self._last >= self._seconds)

    def saved(self) -> None:
        """A checkpoint was written."""
        self._last = time.perf_counter()


class Watch:
    """Looks at every loss. guessing: the loss of one who guesses evenly; None where there is no such number."""

    def __init__(self, settings: TrainingSettings, steps: int, guessing: float | None) -> None:
        self._settings, self._guessing = settings, guessing if settings.stop_when_broken else None
        self._warm = round(settings.warmup * steps)
        self._losses: deque[float] = deque(maxlen=2 * MEASURED)

    def look(self, step: int, loss: float) -> None:
        """Raise PauserecError where the loss is no number, or, after the warm-up, above that of guessing and not falling."""
        name, rate = self._settings.name, self._settings.learning_rate
        if not math.isfinite(loss):
            raise PauserecError(f"stage {name!r}: the loss is not a number at step {step}: lower learning_rate")
        if self._guessing is None or step <= self._warm:
            return
        self._losses.append(loss)
        losses = list(self._losses)
        before, mean = sum(losses[:MEASURED]) / MEASURED, sum(losses[MEASURED:]) / MEASURED
        if len(losses) == 2 * MEASURED and mean > self._guessing and mean > (1 - FALLING) * before:
            raise PauserecError(
                f"stage {name!r} is broken: after the warm-up its loss is {mean:.2f}, and guessing has {self._guessing:.2f}: "
                f"set stages.{name}.learning_rate (now {rate:g}) higher where the loss hardly moves, lower where it rises "
                f"(stages.{name}.stop_when_broken=false trains on)"
            )
