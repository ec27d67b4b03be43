"""What ends a training early: its minutes, a loss that is no number, a loss above that of guessing."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import Line, Points

from pauserec.config import SftConfig
from pauserec.errors import PauserecError
from pauserec.training.checkpoints import Clock
from pauserec.training.limits import MEASURED, TimeLimit, Watch
from pauserec.training.loop import fit
from pauserec.training.optimizer import rate_factor


def settings(**changes: Any) -> SftConfig:
    plain = {"name": "line", "kind": "sft", "epochs": 1, "learning_rate": 0.01, "warmup": 0.0, "tracking": ()}
    return SftConfig.model_validate(plain | changes)


class Slow(Line):
    """Takes at least a hundredth of a second a step."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return super().forward(x, y)


def test_a_training_ends_with_its_minutes_and_its_learning_rate_with_it(tmp_path: Path) -> None:
    rates: list[float] = []
    summary = fit(
        Slow(),
        Points([2] * 1000),
        settings(minutes=0.02),
        out=tmp_path,
        log=lambda **line: rates.append(line.get("learning_rate", 0.0)),
    )
    assert summary["ended_by"] == "time"
    assert summary["training_seconds"] < 1.2 * 1.2 + 0.5, "of 1.2 seconds; a step and the checkpoint come on top"
    assert MEASURED <= summary["steps"] < summary["planned_steps"] == 1000
    assert rates[-1] < 0.1 * rates[0], "the schedule came to its end"


def trained(out: Path, minutes: float | None) -> list[tuple[float, float]]:
    lines: list[dict[str, Any]] = []
    out.mkdir()
    fit(Line(), Points([2] * 60), settings(minutes=minutes), out=out, log=lambda **line: lines.append(line))
    return [(line["loss"], line["learning_rate"]) for line in lines if "loss" in line]


def test_a_training_that_is_fast_enough_is_the_same_with_a_limit(tmp_path: Path) -> None:
    assert trained(tmp_path / "a", None) == trained(tmp_path / "b", 5.0)


def test_a_shortened_schedule_goes_on_from_where_it_is() -> None:
    clock = Clock(begin=time.perf_counter() - 50)
    limit = TimeLimit(settings(minutes=1.0), 1000, clock)
    limit.step_done(100)  # half a second a step: 20 of the 900 still fit
    assert limit.scheduled(100) == 100
    limit.step_done(101)
    assert 130 < limit.scheduled(101) < 160, "a twentieth of the way that was left"
    clock.begin -= 15
    limit.step_done(102)
    assert limit.is_up()
    assert rate_factor(settings(minutes=1.0), limit.scheduled(102), 1000) == pytest.approx(0.0)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(PauserecError, match="not a number at step 3: lower learning_rate"):
        Watch(settings(), 10, None).look(3, float("nan"))


def looked_at(losses: list[float], **changes: Any) -> None:
    watch = Watch(settings(warmup=0.1, **changes), 100, 6.9)
    for step, loss in enumerate(losses, 1):
        watch.look(step, loss)


def test_a_loss_that_stays_above_guessing_ends_the_training() -> None:
    with pytest.raises(
        PauserecError, match=r"'line' is broken.* 12\.00, and guessing has 6\.90.*learning_rate"
    ) as error:
        looked_at([12.0] * 100)
    assert "stop_when_broken=false" in str(error.value)


def test_a_loss_that_falls_or_is_below_guessing_does_not() -> None:
    looked_at([6.8] * 100)
    looked_at([20.0 - step / 10 for step in range(100)])
    looked_at([12.0] * 45, stop_when_broken=False)
    looked_at([12.0] * 45)  # the warm-up is ten steps, and twice twenty are judged
