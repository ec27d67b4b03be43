"""Fifty steps of everything that trains, against committed losses: a refactor changes none of them.

`PAUSEREC_WRITE_TRAJECTORIES=1 pytest tests/training/test_trajectories.py` writes trajectories.json anew; do so only where
a change of method is meant, and say so in docs/log.md.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from pauserec.baselines.trained import train_baseline
from pauserec.config import BaselineJob, Recipe
from pauserec.data.dataset import load_dataset, prepare
from pauserec.llm.growth import grow_vocabulary
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages import STAGES

COMMITTED = Path(__file__).with_name("trajectories.json")
STEPS = 50
NAMES = ("cpt", "sft", "pause_pretrain", "implicit_sft", "lora", "sasrec", "tiger")

Trajectories = dict[str, list[list[float]]]
"""By what trains: loss and gradient norm of each step."""


def recipe_of(settings: dict[str, Any]) -> Recipe:
    """Every way of training: windows and last targets, both corpora, dropout, accumulation, frozen rows, adapters."""
    training = {"batch_tokens": 256, "tracking": [], "learning_rate": 1e-3, "save_every": 1000}
    next_item = training | {"validation_users": 10, "validate_every": 30}
    stages = [
        {"name": "cpt", "kind": "cpt", "corpus": "histories", "epochs": 4, **training},
        {"name": "sft", "kind": "sft", "loss_on": "history", "targets": "all", "targets_per_history": 2, "epochs": 12,
         "accumulate": 2, "dropout": 0.1, "layer_dropout": 0.1, "history_dropout": 0.1, **next_item},
        {"name": "pause_pretrain", "kind": "pause_pretrain", "corpus": "items", "epochs": 12, "schedule": "linear",
         **training},
        {"name": "implicit_sft", "kind": "implicit_sft", "targets": "last", "text_rows": "freeze", "epochs": 4,
         "schedule": "constant_with_warmup", "softmax": "codebook", **next_item},
        {"name": "lora", "kind": "sft", "epochs": 8, "lora": {"rank": 4}, "loss_on_end": True, **next_item},
    ]  # fmt: skip
    baselines = [
        {"name": "sasrec", "kind": "sasrec", "epochs": 20, "width": 16, "batch_tokens": 256, "validate_every": 30},
        {"name": "tiger", "kind": "tiger", "epochs": 2, "width": 16, "layers": 1, "heads": 2, "head_width": 8,
         "feed_forward": 16, "batch_tokens": 256, "validate_every": 30},
    ]  # fmt: skip
    return Recipe.parse(settings | {"stages": stages, "baselines": baselines, "evaluation": {"models": []}})


def trained(recipe: Recipe, folder: Path, ids: SemanticIds) -> Trajectories:
    """Runs every stage and baseline of the recipe on fixed IDs."""
    done: dict[str, FinishedStep] = {}
    found: Trajectories = {}

    def step(name: str, function: Callable[..., Any], job: Any, *inputs: FinishedStep) -> None:
        lines: list[dict[str, Any]] = []
        out = folder / name
        out.mkdir()
        summary = function(job, *inputs, out=out, log=lambda **line: lines.append(line))
        done[name] = FinishedStep(name, out, name, summary or {})
        found[name] = [[line["loss"], line["grad_norm"]] for line in lines if "loss" in line][:STEPS]

    step("dataset", lambda config, out, log: prepare(config, out=out, log=log), recipe.data)
    (folder / "ids").mkdir()
    ids.save(folder / "ids")
    done["ids"] = FinishedStep("ids", folder / "ids", "ids", {})
    step("base", grow_vocabulary, recipe.model, done["ids"])
    for stage in recipe.stages:
        starts = [done[name] for name in stage.starts_from]
        step(stage.name, STAGES[stage.kind].train, stage.job(recipe), *starts, done["dataset"], done["ids"])
    for settings in recipe.baselines:
        beside = [done["ids"]] if settings.kind == "tiger" else []
        step(settings.name, train_baseline, BaselineJob(settings=settings, seen="drop"), done["dataset"], *beside)
    return {name: found[name] for name in NAMES}


@pytest.fixture(scope="module")
def trajectories(
    tiny_settings: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Trajectories:
    recipe = recipe_of(tiny_settings())
    folder = tmp_path_factory.mktemp("trajectories")
    with pytest.MonkeyPatch.context() as patch:  # TIGER would train in bfloat16 where a processor is fast at it
        patch.setattr("torch.cpu.get_capabilities", dict)
        return _trained(recipe, folder)


def _trained(recipe: Recipe, folder: Path) -> Trajectories:
    prepare(recipe.data, out=folder / "counted", log=lambda **_: None)
    number = np.arange(len(load_dataset(folder / "counted").items))
    ids = SemanticIds(np.stack([number % 4, number // 4 % 4, number // 16], axis=1), (4, 4, 4))
    found = trained(recipe, folder, ids)
    if os.environ.get("PAUSEREC_WRITE_TRAJECTORIES"):
        rows = [f'"{name}": {orjson.dumps(steps).decode()}' for name, steps in found.items()]
        COMMITTED.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_fifty_steps_have_the_committed_losses(trajectories: Trajectories, name: str) -> None:
    found, committed = np.array(trajectories[name]), np.array(orjson.loads(COMMITTED.read_bytes())[name])
    assert found.shape == committed.shape == (STEPS, 2)
    np.testing.assert_allclose(found, committed, rtol=float(os.environ.get("PAUSEREC_TRAJECTORY_RTOL", "1e-3")))
