"""Trained baselines inside a run: trained, tested, loaded again, recommended with; batches are planned as promised."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pauserec
from pauserec.baselines.sequential import SequenceBatches, SequentialRecommender
from pauserec.cli.plan import make_plan
from pauserec.config import BaselineJob, Recipe
from pauserec.errors import RecipeError, RunError
from pauserec.pipeline import run
from pauserec.results.again import reevaluate
from pauserec.runs.folder import Run
from pauserec.semantic_ids.embed import centred, embed_items, load_vectors
from pauserec.training.batches import IGNORE


def recipe(data: Path, **settings: Any) -> Recipe:
    sasrec = {"name": "mine", "kind": "sasrec", "epochs": 40, "width": 32, "dropout": 0.1, "batch_tokens": 256}
    return Recipe.parse({"name": "classical", "data": {"source": str(data)}, "baselines": [sasrec | settings]})


@pytest.fixture(scope="module")
def trained(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classical") / "run"
    run(recipe(small_data), folder)
    return folder


def test_a_ring_is_learnt_and_the_run_needs_no_language_model(trained: Path) -> None:
    assert not any((trained / name).exists() for name in ("vectors", "semantic_ids", "base"))
    result = pauserec.load(trained, "mine")
    (found,) = result.recommend([["i5", "i6", "i7", "i8"]], k=3)
    assert found.items[0].item_id == "i9"
    again = reevaluate(trained, "test")
    assert list(again) == ["popularity", "co-occurrence", "mine"]
    assert again["mine"].metrics["hit@5"] > 0.95
    served = pauserec.load(trained)
    assert served.row == orjson.loads((trained / "result.json").read_bytes())["best"]


def test_the_plan_says_what_is_done(trained: Path, small_data: Path) -> None:
    plan = make_plan(recipe(small_data), trained, ())
    assert dict(plan.steps) == dict.fromkeys(
        ["dataset", "test-popularity", "test-co-occurrence", "mine", "test-mine"], True
    )


def test_a_refit_sees_one_event_more_and_is_not_validated(small_data: Path, tmp_path: Path) -> None:
    result = run(recipe(small_data, final_fit="train+validation", epochs=2), tmp_path / "refit")
    strict = run(recipe(small_data, epochs=2), tmp_path / "strict")
    assert result["stages"]["mine"]["targets"] > strict["stages"]["mine"]["targets"]
    assert "validations" not in result["stages"]["mine"]
    assert result["final_fit"] == ["train", "train+validation"], "the counting baselines count what they are told to"


def test_its_item_vectors_can_shape_the_ids(small_data: Path, tiny_embedder: Path, tmp_path: Path) -> None:
    plain = recipe(small_data).model_dump(mode="json")
    embedder = {"name": str(tiny_embedder), "baseline": "mine", "baseline_weight": 0.25}
    made = Recipe.parse(plain | {"embedder": embedder})
    folder = Run.open(made, tmp_path / "run")
    run(made, folder.path)
    dataset, mine = folder.finished("dataset"), folder.finished("mine")
    vectors = folder.step("vectors", embed_items, made.embedder, dataset, mine)
    rows = load_vectors(vectors.path)
    assert rows.shape == (40, 32 + 32)
    assert np.square(rows[:, 32:]).sum(axis=1) == pytest.approx(0.25, abs=1e-5)
    learnt = SequentialRecommender.load(mine.path).model.rows().detach().numpy()
    assert rows[:, 32:] == pytest.approx(0.5 * centred(learnt), abs=1e-5)
    with pytest.raises(RecipeError, match=r"is no entry of \[\[baselines\]\]"):
        Recipe.parse(plain | {"embedder": {"baseline": "other"}})


def test_a_damaged_model_is_named(trained: Path, tmp_path: Path) -> None:
    for name, content in (("settings.json", b"{}"), ("model.safetensors", b"no tensors"), ("settings.json", None)):
        folder = tmp_path / f"{name}-{content}"
        shutil.copytree(trained / "mine", folder)
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        with pytest.raises(RunError, match="train the baseline again"):
            SequentialRecommender.load(folder)


def test_heads_must_part_the_width(small_data: Path) -> None:
    with pytest.raises(RecipeError, match="width 32 is no multiple of heads 3"):
        recipe(small_data, heads=3)


def test_names_must_differ(small_data: Path) -> None:
    with pytest.raises(RecipeError, match="has the name of something else"):
        recipe(small_data, name="popularity")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(lambda n: max(n) > 1), st.integers(8, 200))
def test_each_epoch_holds_every_next_item_once(lengths: list[int], places: int) -> None:
    job = BaselineJob.model_validate(
        {"settings": {"name": "s", "kind": "sasrec", "epochs": 2, "batch_tokens": max(64, places)}, "seen": "keep"}
    )
    sequences = [100 * user + np.arange(length) for user, length in enumerate(lengths)]
    batches = SequenceBatches(sequences, job.settings)
    half = batches.epoch_ends[0]
    for part in (range(half), range(half, len(batches))):
        pairs = []
        for number in part:
            batch = batches[number]
            real = batch["labels"] != IGNORE
            assert batch["count"] == real.sum()
            assert ((batch["items"] > 0) == real).all()
            assert batch["items"].size <= max(64, places) or len(batch["items"]) == 1
            pairs += list(zip((batch["items"][real] - 1).tolist(), batch["labels"][real].tolist(), strict=True))
        assert sorted(pairs) == sorted((int(a), int(b)) for s in sequences for a, b in pairwise(s))
