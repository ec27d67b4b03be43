"""The time of a whole run: what each training may take of it, and what is shown of it."""

from pathlib import Path

import pytest

from pauserec.config import Recipe
from pauserec.errors import RecipeError
from pauserec.runs.budget import LEAST, pace, share
from pauserec.runs.progress import WholeRun, clock
from pauserec.runs.steps import FinishedStep
from pauserec.runs.suited import check_machine, check_size


@pytest.fixture
def recipe() -> Recipe:
    """Ten minutes for two stages, of which SFT is expected to take twice as long."""
    stages = [
        {"name": "sft", "kind": "sft", "starts_from": ["base"]},
        {"name": "more", "kind": "sft", "starts_from": ["sft"]},
    ]
    expected = {"dataset": 10, "vectors": 20, "sft": 200, "more": 100, "test-popularity": 5, "test-co-occurrence": 5}
    return Recipe.parse({"name": "run", "stages": stages, "budget": {"minutes": 10, "spent": 30, "expected": expected}})


def done(**seconds: float) -> dict[str, FinishedStep]:
    return {
        name.replace("_", "-"): FinishedStep(name, Path(name), "", {"seconds": taken})
        for name, taken in seconds.items()
    }


def test_trainings_divide_what_the_other_steps_leave(recipe: Recipe) -> None:
    steps = done(dataset=10, test_popularity=5, test_co_occurrence=5)
    left = 600 - 30 - 20 - 20  # the vectors are still to come
    assert share(recipe, steps, "sft") == pytest.approx(left * 2 / 3)
    steps |= done(vectors=20, sft=100)
    assert share(recipe, steps, "more") == pytest.approx(600 - 30 - 20 - 20 - 100), "what SFT did not need"


def test_where_steps_took_twice_as_long_the_coming_ones_may_too(recipe: Recipe) -> None:
    steps = done(dataset=20, test_popularity=10, test_co_occurrence=10)
    assert share(recipe, steps, "sft") == pytest.approx((600 - 30 - 40 - 2 * 20) * 2 / 3)


def test_a_training_gets_time_for_some_steps_though_none_is_left(recipe: Recipe) -> None:
    assert share(recipe, done(dataset=2000), "sft") == LEAST


def test_without_a_budget_there_is_no_limit() -> None:
    assert share(Recipe(name="run"), {}, "sft") is None


def test_the_pace_is_never_faster_than_expected() -> None:
    assert pace({"a": 10, "b": 10}, {"a": 5}) == 1
    assert pace({"a": 10, "b": 10}, {"a": 5, "b": 25}) == pytest.approx(1.5)
    assert pace({"a": 10}, {"a": 1000}) == 2
    assert pace({}, {"a": 1000}) == 1


def test_the_whole_run_is_told_in_steps_and_time() -> None:
    whole = WholeRun(["dataset", "sft", "test-sft"], {"sft": 60, "test-sft": 30})
    whole.begin("sft", {"dataset": 12})
    assert whole.line() == "step 2/3, 0:12 done, about 1:30 left"
    plain = WholeRun(["dataset", "sft"], {})
    plain.begin("dataset", {})
    assert plain.line() == "step 1/2, 0:00 done"
    assert [clock(7), clock(750), clock(3720)] == ["0:07", "12:30", "1:02:00"]


def test_a_recipe_for_other_data_or_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.parse({"name": "paper", "made_for": {"gpu": True, "users": 1000, "items": 5000}})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"'paper' is made for a GPU.*pauserec fit.*--yes"):
        check_machine(recipe)
    with pytest.raises(RecipeError, match="at least 1,000 users, and these logs have 500"):
        check_size(recipe, {"users": 500, "items": 10})
    few = Recipe.parse({"name": "p", "made_for": {"events": 100}})
    with pytest.raises(RecipeError, match="at least 100 events, and these logs have 99"):
        check_size(few, {"interactions": 99})
    with pytest.raises(RecipeError, match="at most 5,000 items, and these logs have 5,001"):
        check_size(recipe, {"users": 1000, "items": 5001})


def test_one_for_these_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    check_machine(Recipe(name="plain"))
    check_size(Recipe.parse({"name": "p", "made_for": {"users": 10}}), {"users": 10, "items": 1})
    check_size(Recipe(name="plain"), {"users": 1, "items": 10**9})
    check_size(Recipe.parse({"name": "p", "made_for": {"users": 10}}), {})
