"""kill -9 at any moment: the rerun finishes, with the losses and ranks of a run that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from pauserec.config import Recipe
from pauserec.pipeline import run

STAGES = ("cpt", "sft", "pause_pretrain", "implicit_sft")


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pauserec", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll as fast as can be; a moment that already passed is a moment too."""
    while process.poll() is None and not condition():
        time.sleep(0.0005)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Whether there still was something to kill."""
    alive = process.poll() is None
    if alive:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


Losses = list[tuple[tuple[str, int], float]]


def logged(out: Path) -> Losses:
    """Stage, step and loss, as often as a step was done."""
    lines = []
    for raw in (out / "log.jsonl").read_bytes().splitlines():
        try:
            lines.append(orjson.loads(raw))
        except orjson.JSONDecodeError:
            continue
    return [((line["step"], line["global_step"]), line["loss"]) for line in lines if "loss" in line]


def losses(out: Path) -> dict[tuple[str, int], float]:
    """Loss of each stage's step; of a step that was done twice, the last."""
    return dict(logged(out))


def compare(out: Path, reference: Path, kills: int) -> None:
    assert losses(out) == losses(reference)
    again = len(logged(out)) - len(losses(out))
    assert again <= 2 * kills, "saved after every step, a rerun repeats one or two"
    ranks = [pl.read_parquet(folder / "ranks.parquet").sort("model", "split", "user_id") for folder in (out, reference)]
    assert ranks[0].equals(ranks[1])


@pytest.fixture(scope="module")
def reference(tiny_settings: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, on one thread like the others, and its recipe beside it."""
    folder = tmp_path_factory.mktemp("kill")
    recipe = Recipe.parse(tiny_settings(epochs=3.0, save_every=1))
    (folder / "tiny.toml").write_text(recipe.dump())
    run(recipe, folder / "reference")
    return folder / "reference"


def in_the_middle_of_a_save(out: Path, stage: str) -> Callable[[], bool]:
    """A checkpoint's folder is there, its manifest is not."""

    def condition() -> bool:
        folders = list((out / f"{stage}.partial" / "training").glob("checkpoint-*"))
        return any(not (folder / "manifest.json").exists() for folder in folders)

    return condition


def test_killed_in_the_middle_of_a_save_of_every_stage(reference: Path, tmp_path: Path) -> None:
    recipe, out = reference.parent / "tiny.toml", tmp_path / "out"
    for stage in STAGES:
        process = start(recipe, out)
        wait_for(in_the_middle_of_a_save(out, stage), process)
        assert kill(process), f"{stage} was never seen saving"
    last = start(recipe, out)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()
    compare(out, reference, len(STAGES))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_killed_at_a_random_step_of_every_stage(reference: Path, tmp_path: Path, seed: int) -> None:
    recipe, out, rng = reference.parent / "tiny.toml", tmp_path / "out", random.Random(seed)
    for stage in STAGES:
        steps = max(step for name, step in losses(reference) if name == stage)
        chosen = rng.randrange(1, steps)
        process = start(recipe, out)
        wait_for(
            lambda stage=stage, step=chosen: (out / "log.jsonl").exists() and (stage, step) in losses(out), process
        )
        time.sleep(rng.uniform(0, 0.05))
        assert kill(process)
        assert not (out / stage).exists(), f"{stage} was over: it was not killed in it"
    last = start(recipe, out)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()
    compare(out, reference, len(STAGES))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments(reference: Path, tmp_path: Path, seed: int) -> None:
    recipe, out, rng = reference.parent / "tiny.toml", tmp_path / "out", random.Random(seed)
    kills = 0
    for _ in range(8):
        process = start(recipe, out)
        time.sleep(rng.uniform(6, 16))
        if not kill(process):
            break
        kills += 1
    assert kills
    last = start(recipe, out)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors.decode()
    compare(out, reference, kills)
