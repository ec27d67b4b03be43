"""A plan says what a run would do and cost: its steps, its tokens, and which of it is done."""

import shutil
from pathlib import Path
from typing import Any

import orjson

from pauserec.cli.plan import make_plan
from pauserec.config import DataConfig, Recipe, SasrecConfig
from pauserec.pipeline import run
from pauserec.semantic_ids.quantize import stand_in_ids


def test_a_dry_run_names_the_baselines_it_says_nothing_of(small_data: Path, tmp_path: Path) -> None:
    sasrec = SasrecConfig(name="sas", kind="sasrec", epochs=1, width=8)
    recipe = Recipe(name="plain", data=DataConfig(source=str(small_data)), baselines=(sasrec,))
    totals = make_plan(recipe, tmp_path / "run", ()).totals()
    assert totals.endswith("not estimated: training sas")
    assert "0 tokens" not in totals


def test_the_plan_knows_digits_as_the_run_does(tiny_settings: Any, tmp_path: Path) -> None:
    settings = tiny_settings() | {"quantizer": {"codebook_sizes": [2, 4], "collisions": "digit"}}
    ids = stand_in_ids(Recipe.parse(settings).quantizer, 41)
    assert ids.sizes == (2, 4, 8)
    assert len(set(map(tuple, ids.codes.tolist()))) == 41


def test_the_plan_counts_the_tokens_that_the_run_trains_on(tiny_recipe: Recipe, tiny_run: Path, tmp_path: Path) -> None:
    stages = orjson.loads((tiny_run / "result.json").read_bytes())["stages"]
    planned = {stage.name: stage.tokens for stage in make_plan(tiny_recipe, tmp_path / "new", ()).stages}
    assert planned == {name: stage["tokens"] for name, stage in stages.items()}


def test_the_plan_walks_the_steps_of_the_run(tiny_recipe: Recipe, tiny_run: Path, tmp_path: Path) -> None:
    told: dict[str, bool] = {}
    shutil.copytree(tiny_run, tmp_path / "run")
    run(tiny_recipe, tmp_path / "run", on_step=told.__setitem__)
    assert list(make_plan(tiny_recipe, tiny_run, ()).steps) == list(told.items())
    assert set(told) == set(tiny_recipe.steps)
    new = make_plan(tiny_recipe, tmp_path / "new", ("sft",), reuse=(tiny_run,))
    assert set(new.taken) == set(told) - {"sft", "test-sft", "implicit_sft", "test-pauserec", "test-pauserec-k0"}
    assert dict(new.steps) == {name: name in new.taken for name in told}
    assert f"taken over: {', '.join(new.taken)}" in new.totals()
    again = make_plan(tiny_recipe, tiny_run, ("sft",))
    assert dict(again.again) == {
        "sft": "--redo",
        **dict.fromkeys(
            ["test-sft", "implicit_sft", "test-pauserec", "test-pauserec-k0"], "what it is made from is made again"
        ),
    }
    assert "sft would be done again: --redo" in again.totals()
    redone = dict(again.steps)
    assert [name for name, done in redone.items() if not done] == [
        "sft", "test-sft", "implicit_sft", "test-pauserec", "test-pauserec-k0"
    ]  # fmt: skip
