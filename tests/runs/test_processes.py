"""Several processes: the losses and ranks of one, and a clear end when one of them is killed."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from commands import together
from pauserec.config import Recipe
from pauserec.pipeline import run

STAGES = ("cpt", "sft", "pause_pretrain", "implicit_sft")


def steps(out: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """Loss and gradient norm of every step."""
    return {(line["step"], line["global_step"]): (line["loss"], line["grad_norm"]) for line in loss_lines(out)}


def loss_lines(out: Path) -> list[dict[str, Any]]:
    lines = [orjson.loads(line) for line in (out / "log.jsonl").read_bytes().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def alone(tiny_settings: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that takes four batches a step; beside it a recipe that takes two, for two processes."""
    folder = tmp_path_factory.mktemp("parallel")
    training = {"epochs": 2.0, "save_every": 1}
    sasrec = {"name": "sasrec", "kind": "sasrec", "dropout": 0.0, "batch_tokens": 256, **training}
    quantizer = {"kind": "rqvae", "codebook_sizes": [8, 8, 8], "epochs": 3, "hidden": [16], "latent": 8}

    def recipe(**more: int) -> Recipe:
        settings = tiny_settings(**training, **more) | {"quantizer": quantizer, "baselines": [sasrec | more]}
        return Recipe.parse(settings)

    (folder / "tiny.toml").write_text(recipe(accumulate=2).dump())
    run(recipe(accumulate=4), folder / "alone")
    return folder / "alone"


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_two_processes_are_killed_resume_and_do_what_one_does(alone: Path, tmp_path: Path, sharding: str) -> None:
    changes = [f"stages.{name}.sharding={sharding}" for name in STAGES]
    options = [part for change in changes for part in ("--set", change)]
    recipe, out = alone.parent / "tiny.toml", tmp_path / "both"
    command = ("-m", "pauserec", "run", str(recipe), "--out", str(out), *options)
    both = together(2, *command)
    checkpoint = tmp_path / "both" / "sft.partial" / "training" / "checkpoint-1" / "manifest.json"
    while not checkpoint.exists() and all(process.poll() is None for process in both):
        time.sleep(0.01)
    both[1].send_signal(signal.SIGKILL)
    _, said = both[0].communicate(timeout=60)
    both[1].communicate()
    assert both[0].returncode == 2
    assert "another process of this run ended" in said.decode()
    assert "Traceback" not in said.decode()

    both = together(2, *command)
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    found, expected = steps(tmp_path / "both"), steps(alone)
    times = Counter((line["step"], line["global_step"]) for line in loss_lines(tmp_path / "both"))
    assert times["sft", 1] == 1, "the rerun went on from the checkpoint"
    assert {count for (step, _), count in times.items() if step != "sft"} == {1}, "one process alone writes"
    assert found.keys() == expected.keys()
    assert {step for step, _ in found} == {"semantic_ids", "sasrec", *STAGES}
    for key in expected:
        assert found[key][0] == pytest.approx(expected[key][0], rel=1e-4), key
        assert found[key][1] == pytest.approx(expected[key][1], rel=1e-3), key
    ranks = [
        pl.read_parquet(folder / "ranks.parquet").sort("model", "split", "user_id")["rank"]
        for folder in (tmp_path / "both", alone)
    ]
    assert (ranks[0] == ranks[1]).mean() > 0.98  # type: ignore[operator]
    results = [orjson.loads((folder / "result.json").read_bytes()) for folder in (tmp_path / "both", alone)]
    assert results[0]["stages"]["sft"]["targets"] == results[1]["stages"]["sft"]["targets"]


def test_a_checkpoint_of_other_processes_is_refused(alone: Path, tmp_path: Path) -> None:
    command = ("-m", "pauserec", "run", str(alone.parent / "tiny.toml"), "--out", str(tmp_path / "out"))
    (one,) = together(1, *command)
    checkpoint = tmp_path / "out" / "cpt.partial" / "training" / "checkpoint-1" / "manifest.json"
    while not checkpoint.exists() and one.poll() is None:
        time.sleep(0.001)
    one.send_signal(signal.SIGKILL)
    one.communicate()
    both = together(1, "-m", "torch.distributed.run", "--nproc-per-node", "2", *command)
    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode
        assert re.search(r"written by 1 processes and this\s+run has 2: start as many", said.decode()), said.decode()
