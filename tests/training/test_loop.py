"""The training loop: its loss, its best checkpoint, its stops, and the checkpoints it trusts."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from torch import Tensor, nn

from pauserec.config import SftConfig
from pauserec.errors import PauserecError, RunError
from pauserec.evaluation.validation import METRIC
from pauserec.runs.device import forget_peak, peak_memory
from pauserec.runs.files import hashes
from pauserec.training.checkpoints import newest_checkpoint
from pauserec.training.loop import fit


class Line(nn.Module):
    """y = w x; the summed squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.weight * x - y).square().sum()


class Points:
    """Batches of points on y = 2 x, so many a batch; each batch once an epoch."""

    def __init__(self, sizes: list[int], epochs: int = 1, slope: float = 2.0) -> None:
        self.sizes, self.slope = sizes * epochs, slope
        self.epoch_ends = [len(sizes) * (epoch + 1) for epoch in range(epochs)]
        self.tokens = sum(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> dict[str, Any]:
        x = torch.arange(1.0, self.sizes[number] + 1)
        return {"x": x.numpy(), "y": (self.slope * x).numpy(), "count": len(x)}


def settings(**changes: Any) -> SftConfig:
    plain = {"name": "line", "kind": "sft", "epochs": 1, "learning_rate": 0.1, "warmup": 0.0, "tracking": ()}
    return SftConfig.model_validate(plain | {"max_grad_norm": 1e9} | changes)


def losses(out: Path, batches: Points, **changes: Any) -> list[float]:
    lines: list[float] = []
    out.mkdir()
    fit(Line(), batches, settings(**changes), out=out, log=lambda **line: lines.append(line.get("loss", 0.0)))
    return lines[: -(-len(batches) // changes.get("accumulate", 1))]


def test_the_loss_is_the_mean_over_the_targets_of_an_optimizer_step(tmp_path: Path) -> None:
    by_hand = [sum((2 * x) ** 2 for x in range(1, n + 1)) for n in (3, 1)]
    accumulated = losses(tmp_path / "a", Points([3, 1]), accumulate=2)
    assert accumulated == [pytest.approx(sum(by_hand) / 4)]
    assert losses(tmp_path / "b", Points([3]))[0] == pytest.approx(by_hand[0] / 3)


class Noisy(Line):
    """With dropout: what it draws must go on where it stopped."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(torch.nn.functional.dropout(x, 0.5, self.training), y)


def test_a_resumed_training_has_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def attempt(out: Path, stop: int | None) -> dict[int, float]:
        found: dict[int, float] = {}

        def log(**line: Any) -> None:
            if line["global_step"] == stop:
                raise KeyboardInterrupt
            found[line["global_step"]] = line["loss"]

        out.mkdir(exist_ok=True)
        with suppress(KeyboardInterrupt):
            fit(Noisy(), Points([8] * 9), settings(save_every=2, accumulate=1, learning_rate=0.01), out=out, log=log)
        return found

    whole = attempt(tmp_path / "whole", None)
    parts = attempt(tmp_path / "parts", 4) | attempt(tmp_path / "parts", 8) | attempt(tmp_path / "parts", None)
    assert parts == whole
    assert len(whole) == 9


def test_a_checkpoint_of_the_first_version_is_gone_on_with(tmp_path: Path) -> None:
    """Its random state held NumPy's, too."""
    whole = losses(tmp_path / "whole", Points([4] * 4), save_every=2)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), Points([4] * 4), settings(save_every=2), out=tmp_path, log=interrupted_at(3, "loss"))
    checkpoint = tmp_path / "training" / "checkpoint-2"
    torch.save({"cpu": torch.get_rng_state(), "numpy": np.random.get_state()}, checkpoint / "rng_state.pth")
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "manifest.json").write_bytes(orjson.dumps(hashes(checkpoint)))
    found: list[float] = []
    fit(Line(), Points([4] * 4), settings(), out=tmp_path, log=lambda **line: found.append(line["loss"]))
    assert found == whole[2:]


def test_a_checkpoint_of_a_model_with_other_parameters_is_one_line(tmp_path: Path) -> None:
    class Curve(Line):
        def __init__(self) -> None:
            super().__init__()
            self.bend = nn.Parameter(torch.zeros(()))

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), Points([4] * 4), settings(save_every=2), out=tmp_path, log=interrupted_at(3, "loss"))
    with pytest.raises(RunError, match=r"no weights named 'bend' .*: delete \S+training, and run the same command"):
        fit(Curve(), Points([4] * 4), settings(), out=tmp_path, log=interrupted)


def test_the_gradient_norm_is_that_of_the_mean_over_all_targets_of_a_step(tmp_path: Path) -> None:
    norms: list[float] = []
    once = {"settings": settings(accumulate=3), "log": lambda **line: norms.append(line["grad_norm"])}
    fit(Line(), Points([3, 1, 2]), out=tmp_path, **once)
    # d/dw of (w x - 2 x)^2 at w = 0 is -4 x^2
    assert norms == [pytest.approx(sum(4.0 * x * x for n in (3, 1, 2) for x in range(1, n + 1)) / 6)]


def test_batches_may_be_made_from_the_weights_of_now(tmp_path: Path) -> None:
    line, seen = Line(), []

    class Rollouts(Points):
        def __getitem__(self, number: int) -> dict[str, Any]:
            seen.append(line.weight.item())
            return super().__getitem__(number)

    after: list[float] = []
    fit(line, Rollouts([4] * 4), settings(), out=tmp_path, log=lambda **_: after.append(line.weight.item()))
    assert seen == [0.0, *after[:-1]]
    assert len(set(seen)) == 4


def test_training_ends_with_the_best_validated_weights(tmp_path: Path) -> None:
    line, scores, seen = Line(), iter([0.1, 0.9, 0.3]), []

    def validate() -> dict[str, float]:
        seen.append(line.weight.item())
        return {METRIC: next(scores)}

    summary = fit(line, Points([4] * 2, 3), settings(epochs=3), out=tmp_path, log=lambda **_: None, validate=validate)
    assert line.weight.item() == seen[1]
    assert (summary["best_step"], summary["best_epoch"]) == (4, 2.0)
    assert [score["step"] for score in summary["validations"]] == [2, 4, 6]


def test_patience_stops_early(tmp_path: Path) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.2])
    summary = fit(
        Line(),
        Points([4], 4),
        settings(patience=2),
        out=tmp_path,
        log=lambda **_: None,
        validate=lambda: {METRIC: next(scores)},
    )
    assert summary["steps"] == 3


def interrupted(_: Path) -> None:
    """A save that is killed."""
    raise KeyboardInterrupt


def interrupted_at(step: int, word: str) -> Any:
    """A log that is cut off, as by a kill, at a step's line that holds `word`."""

    def log(**line: Any) -> None:
        if line.get("global_step") == step and word in line:
            raise KeyboardInterrupt

    return log


def test_a_training_that_makes_it_worse_leaves_what_it_began_with(tmp_path: Path) -> None:
    for name, scores, wanted in (("worse", [0.5, 0.4, 0.3], 0.0), ("better", [0.5, 0.4, 0.6], 0.8)):
        found, line, out = iter(scores), Line(), tmp_path / name
        out.mkdir()
        once = {"out": out, "log": lambda **_: None, "validate": lambda found=found: {METRIC: next(found)}}
        summary = fit(line, Points([1], 2), settings(validate_start=True), **once)
        assert [score["step"] for score in summary["validations"]] == [0, 1, 2]
        assert (summary["best_step"] == 0) is (wanted == 0.0)
        assert (line.weight.item() > 0.0) is (wanted > 0.0)


def test_the_start_is_validated_once(tmp_path: Path) -> None:
    validated: list[int] = []

    def validate() -> dict[str, float]:
        validated.append(1)
        return {METRIC: 0.1}

    for attempt in (1, 2):
        with suppress(KeyboardInterrupt):
            fit(
                Line(),
                Points([4] * 3),
                settings(validate_start=True, save_every=1),
                out=tmp_path,
                log=interrupted_at(2, "loss") if attempt == 1 else lambda **_: None,
                validate=validate,
            )
    assert len(validated) == 2, "before the first step, and after the last"


def test_losses_are_read_every_so_many_steps_and_none_is_left_out(tmp_path: Path) -> None:
    lines: list[tuple[int, float]] = []
    read: list[int] = []

    class Counted(Line):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            read.append(len(lines))
            return super().forward(x, y)

    def log(**line: Any) -> None:
        lines.append((line["global_step"], line["loss"]))

    fit(Counted(), Points([4] * 7), settings(log_every=3), out=tmp_path, log=log)
    assert [step for step, _ in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert read == [0, 0, 0, 3, 3, 3, 6]
    assert [loss for _, loss in lines] == losses(tmp_path / "each", Points([4] * 7))


def test_checkpoints_come_by_minutes(tmp_path: Path) -> None:
    found: set[str] = set()

    class Slow(Line):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            time.sleep(0.02)
            found.update(path.name for path in tmp_path.glob("training/checkpoint-*"))
            return super().forward(x, y)

    fit(Slow(), Points([4] * 6), settings(save_minutes=0.05 / 60), out=tmp_path, log=lambda **_: None)
    assert {path for path in found if path != "checkpoint-6"}, "before the end"
    assert "checkpoint-1" not in found, "not every step"


@pytest.mark.parametrize(("first", "then"), [(2, 3), (2, 100), (4, 1)])
def test_the_interval_of_saves_may_change_under_way(tmp_path: Path, first: int, then: int) -> None:
    whole = losses(tmp_path / "whole", Points([4] * 6), save_every=100)
    found: dict[int, float] = {}

    def log(**line: Any) -> None:
        if "loss" in line:
            found[line["global_step"]] = line["loss"]
        if line.get("global_step") == 5 and first == interval:
            raise KeyboardInterrupt

    for interval in (first, then):
        try:
            fit(Line(), Points([4] * 6), settings(save_every=interval), out=tmp_path, log=log)
        except KeyboardInterrupt:
            found = {step: loss for step, loss in found.items() if step <= 4}  # the last save
    assert [found[step] for step in range(1, 7)] == whole


def test_patience_is_remembered_when_only_the_result_was_not_saved(tmp_path: Path) -> None:
    scores = iter([0.5, 0.4, 0.9, 0.9])
    once = {"out": tmp_path, "log": lambda **_: None, "validate": lambda: {METRIC: next(scores)}}
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), Points([4], 4), settings(patience=1, save_every=1), save=interrupted, **once)
    line = Line()
    summary = fit(line, Points([4], 4), settings(patience=1, save_every=1), save=lambda _: None, **once)
    assert (summary["steps"], summary["best_step"], summary["targets"]) == (2, 1, 8)
    assert line.weight.item() > 0, "the weights of the first step"


def test_the_best_weights_are_those_of_the_best_score_after_a_crash(tmp_path: Path) -> None:
    seen: list[float] = []

    def attempt(scores: list[float], log: Any) -> dict[str, Any]:
        remaining = iter(scores)

        def validate() -> dict[str, float]:
            seen.append(line.weight.item())
            return {METRIC: next(remaining)}

        line = Line()
        summary = fit(line, Points([4], 4), settings(save_every=2), out=tmp_path, log=log, validate=validate)
        return summary | {"weight": line.weight.item()}

    with pytest.raises(KeyboardInterrupt):  # step 3 was the best yet, and no checkpoint holds it
        attempt([0.2, 0.5, 0.9], interrupted_at(3, "loss"))
    found = attempt([0.1, 0.3], lambda **_: None)
    assert found["best_step"] == 2
    assert found["weight"] == seen[1] != seen[2]


def test_lost_best_weights_are_named(tmp_path: Path) -> None:
    once = {"out": tmp_path, "log": lambda **_: None, "validate": lambda: {METRIC: 0.5}}
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), Points([4] * 2), settings(save_every=1), save=interrupted, **once)
    (tmp_path / "training" / "best-2.safetensors").unlink()
    with pytest.raises(RunError, match=r"training lacks the weights of its best validation .*: delete it, and run"):
        fit(Line(), Points([4] * 2), settings(save_every=1), **once)


class Slow(Line):
    """A fifth of a second a step."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        time.sleep(0.2)
        return super().forward(x, y)


def test_speed_counts_over_interruptions(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Slow(), Points([4] * 4), settings(save_every=4), out=tmp_path, log=lambda **_: None, save=interrupted)
    summary = fit(Slow(), Points([4] * 4), settings(save_every=4), out=tmp_path, log=lambda **_: None)
    assert 0 < summary["tokens_per_second"] <= 16 / 0.8, "all steps were done before the interruption"


def test_peak_memory_is_that_of_the_stage(tmp_path: Path) -> None:
    held = torch.ones(1 << 26)  # 256 MB before the stage
    before = held.numel() * held.element_size()
    del held
    summary = fit(Line(), Points([4]), settings(), out=tmp_path, log=lambda **_: None)
    forget_peak()
    assert summary["peak_memory_bytes"] < peak_memory() + before / 2


def test_an_infinite_loss_stops_too(tmp_path: Path) -> None:
    with pytest.raises(PauserecError, match="the loss is not a number at step 1"):
        fit(Line(), Points([2], slope=float("inf")), settings(), out=tmp_path, log=lambda **_: None)


def test_a_loss_that_is_no_number_stops_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(PauserecError, match=r"'line': the loss is not a number at step 1: lower learning_rate"):
        fit(Line(), Points([2], slope=float("nan")), settings(), out=tmp_path, log=lambda **_: None)


def test_seconds_count_over_interruptions(tmp_path: Path) -> None:
    def interrupt(**line: Any) -> None:
        if line.get("global_step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Slow(), Points([4] * 4), settings(save_every=2), out=tmp_path, log=interrupt)
    summary = fit(Slow(), Points([4] * 4), settings(save_every=2), out=tmp_path, log=lambda **_: None)
    assert summary["training_seconds"] > 0.8, "four steps, two of them before the interruption"
    assert summary["targets"] == 16


def test_speed_and_memory_are_reported(tmp_path: Path) -> None:
    def slow_validation() -> dict[str, float]:
        time.sleep(2)
        return {METRIC: 0.1}

    summary = fit(Line(), Points([4] * 5), settings(), out=tmp_path, log=lambda **_: None, validate=slow_validation)
    assert summary["tokens_per_second"] > 20 / 2, "validation is no part of it"
    assert summary["peak_memory_bytes"] > 10**7
    assert summary["targets"] == 20


@pytest.mark.parametrize("harm", ["truncate", "no manifest", "missing file"])
def test_a_broken_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, harm: str) -> None:
    fit(Line(), Points([4] * 4), settings(save_every=2), out=tmp_path, log=lambda **_: None)
    newest = tmp_path / "training" / "checkpoint-4"
    assert newest_checkpoint(tmp_path / "training") == newest
    file = newest / ("manifest.json" if harm == "no manifest" else "optimizer.pt")
    if harm == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    assert newest_checkpoint(tmp_path / "training") == tmp_path / "training" / "checkpoint-2"
    assert not newest.exists()
