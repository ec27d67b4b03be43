"""What is said of a run that went wrong, and that nothing is said of one that did not."""

from typing import Any

import pytest

from pauserec.config import Recipe
from pauserec.results.verdicts import losses, row_verdicts, stage_verdicts, verdicts

METRIC = "validation_ndcg@10"


@pytest.fixture
def recipe() -> Recipe:
    """SFT, then implicit SFT from it, both validated on the same users, with a row each."""
    stages = [
        {"name": "sft", "kind": "sft", "starts_from": ["base"]},
        {"name": "pause_pretrain", "kind": "pause_pretrain", "starts_from": ["base"]},
        {"name": "implicit_sft", "kind": "implicit_sft"},
    ]
    rows = [{"name": "sft", "stage": "sft"}, {"name": "pauserec", "stage": "implicit_sft"}]
    baselines = [{"name": "sasrec", "kind": "sasrec"}]
    content = {"name": "run", "stages": stages, "baselines": baselines, "evaluation": {"models": rows}}
    return Recipe.parse(content)


def summary(*scores: float, **more: Any) -> dict[str, Any]:
    validations = [{"step": float(step), METRIC: score} for step, score in enumerate(scores, 1)]
    return {"validations": validations, f"best_{METRIC}": max(scores), "ended_by": "steps"} | more


FALLING = [8.0 - step / 50 for step in range(100)]


def models(**scores: float) -> dict[str, Any]:
    return {name.replace("_", "-"): {"validation": {"ndcg@10": score}} for name, score in scores.items()}


def test_a_run_without_fault_is_told_nothing(recipe: Recipe) -> None:
    stages = {"sft": summary(0.05, 0.09, 0.09), "pause_pretrain": {}, "implicit_sft": summary(0.08, 0.10, 0.10)}
    log = [{"step": "sft", "global_step": step, "loss": loss} for step, loss in enumerate(FALLING, 1)]
    assert verdicts(recipe, stages, models(popularity=0.06, sft=0.09, pauserec=0.10), log) == []


def test_a_row_below_popularity_is_named_with_the_setting_to_change(recipe: Recipe) -> None:
    (line,) = row_verdicts(recipe, models(popularity=0.0695, sft=0.0071, pauserec=0.08))
    assert line.startswith("sft is below popularity on validation (NDCG@10 0.0071 against 0.0695)")
    assert "stages.sft.learning_rate" in line
    (line,) = row_verdicts(recipe, models(popularity=0.0695, sasrec=0.05))
    assert "baselines.sasrec.epochs" in line


def test_rows_above_popularity_and_rows_without_validation_are_not(recipe: Recipe) -> None:
    assert row_verdicts(recipe, models(popularity=0.06, sft=0.06)) == []
    assert row_verdicts(recipe, {**models(popularity=0.06), "refit": {"test": {"ndcg@10": 0.01}}}) == []
    assert row_verdicts(recipe, models(sft=0.01)) == [], (
        "without the row of popularity there is nothing to compare with"
    )


def test_a_loss_that_hardly_fell_is_named(recipe: Recipe) -> None:
    flat = [12.0 - step / 1000 for step in range(100)]
    (line,) = stage_verdicts(recipe, "sft", {"sft": summary(0.09, 0.09)}, flat)
    assert line.startswith("sft: its loss hardly fell (12.00 to 11.91): raise stages.sft.learning_rate (1e-05)")


def test_a_loss_that_fell_is_not_nor_is_that_of_a_stage_that_goes_on_from_a_trained_one(recipe: Recipe) -> None:
    assert stage_verdicts(recipe, "sft", {"sft": summary(0.09, 0.09)}, FALLING) == []
    stages = {"sft": summary(0.09, 0.09), "implicit_sft": summary(0.09, 0.09)}
    assert stage_verdicts(recipe, "implicit_sft", stages, [3.0] * 100) == []
    assert stage_verdicts(recipe, "pause_pretrain", {"pause_pretrain": {}}, [3.0] * 100) == []


def test_a_stage_that_ended_worse_than_it_began_is_named(recipe: Recipe) -> None:
    stages = {"sft": summary(0.09, 0.0900), "implicit_sft": summary(0.05, 0.0698, 0.0698)}
    (line,) = stage_verdicts(recipe, "implicit_sft", stages, [])
    assert line.startswith("implicit_sft ended worse than sft, which it began from (NDCG@10 0.0698, before 0.0900)")
    assert "stages.implicit_sft.learning_rate" in line


def test_one_that_ended_better_or_was_validated_on_other_users_is_not(recipe: Recipe) -> None:
    stages = {"sft": summary(0.09, 0.09), "implicit_sft": summary(0.095, 0.095)}
    assert stage_verdicts(recipe, "implicit_sft", stages, []) == []
    stages["implicit_sft"] = summary(0.05, 0.05)
    others = Recipe.parse(recipe.model_dump(mode="json"), ("stages.sft.validation_users=7",))
    assert stage_verdicts(others, "implicit_sft", stages, []) == []


def test_validation_that_still_rises_at_the_last_epoch_is_named(recipe: Recipe) -> None:
    (line,) = stage_verdicts(recipe, "sft", {"sft": summary(0.05, 0.07, 0.09)}, [])
    assert line.startswith("sft: validation was still rising when it ended (NDCG@10 0.0700, then 0.0900)")
    assert line.endswith("raise stages.sft.epochs (6)")
    (line,) = stage_verdicts(recipe, "sft", {"sft": summary(0.05, 0.07, 0.09, ended_by="time")}, [])
    assert "budget.minutes" in line


def test_validation_that_is_flat_at_the_end_or_out_of_patience_is_not(recipe: Recipe) -> None:
    assert stage_verdicts(recipe, "sft", {"sft": summary(0.05, 0.0899, 0.09)}, []) == []
    assert stage_verdicts(recipe, "sft", {"sft": summary(0.05, 0.09, 0.08)}, []) == []
    assert stage_verdicts(recipe, "sft", {"sft": summary(0.05, 0.07, 0.09, ended_by="patience")}, []) == []
    assert stage_verdicts(recipe, "sft", {"sft": summary(0.09)}, []) == []


def test_of_a_step_that_was_done_twice_the_later_loss_counts() -> None:
    log = [{"step": "sft", "global_step": 1, "loss": 9.0}, {"step": "cpt", "global_step": 1, "loss": 1.0}]
    log += [{"step": "sft", "global_step": 2, "loss": 8.0}, {"step": "sft", "global_step": 1, "loss": 7.0}]
    assert losses(log, "sft") == [7.0, 8.0]


def test_an_update_that_ended_worse_than_it_began_is_named(recipe: Recipe) -> None:
    content = recipe.model_dump(mode="json")
    content |= {"update": {"run": "runs/first"}, "stages": content["stages"][:1]}
    content["evaluation"]["models"] = [{"name": "before", "stage": "base"}, {"name": "sft", "stage": "sft"}]
    update = Recipe.parse(content)
    (line,) = row_verdicts(update, models(popularity=0.01, before=0.09, sft=0.08))
    assert line.startswith("sft ended worse than the model it began from (validation NDCG@10 0.0800, before 0.0900)")
    assert row_verdicts(update, models(popularity=0.01, before=0.09, sft=0.09)) == []
