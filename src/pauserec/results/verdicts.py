"""What went wrong in a run that finished, one line each with the setting to change: silence would look like success."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pauserec.config import Recipe
from pauserec.config.recipe import TEST_STEP
from pauserec.config.stages import Stage
from pauserec.evaluation.validation import METRIC
from pauserec.results.finished import METRICS_FILE
from pauserec.runs.files import read_json
from pauserec.runs.folder import Run
from pauserec.runs.logs import last_trainings, read_log
from pauserec.runs.place import LOG

HARDLY = 0.05
"""A loss that fell by a smaller share than this hardly fell."""
RISING = 0.03
"""Validation still rises where the last gain was at least this share."""
NDCG = "ndcg@10"


def stage_verdicts(
    recipe: Recipe, name: str, stages: Mapping[str, Mapping[str, Any]], losses: Sequence[float]
) -> list[str]:
    """What is wrong with a stage that is done. stages: summaries by name. losses: one an optimizer step, in order."""
    stage = next(stage for stage in recipe.stages if stage.name == name)
    found = (
        _hardly_fell(recipe, stage, losses),
        _ended_worse(recipe, stage, stages),
        _still_rising(stage, stages[name]),
    )
    return [line for line in found if line]


def row_verdicts(recipe: Recipe, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with rows of the table. models: as in result.json."""
    scores = {name: model["validation"][NDCG] for name, model in models.items() if "validation" in model}
    found = _below_popularity(recipe, scores)
    began, stage = scores.get("before"), next((stage.name for stage in recipe.stages), "")
    for row in recipe.evaluation.models if recipe.update.run else ():
        score = scores.get(row.name)
        if row.stage == stage and score is not None and began is not None and score < began:
            found.append(
                f"{row.name} ended worse than the model it began from (validation NDCG@10 {score:.4f}, before "
                f"{began:.4f}): lower stages.{stage}.learning_rate, or keep `before`, which is served then"
            )
    return found


def _below_popularity(recipe: Recipe, scores: Mapping[str, float]) -> list[str]:
    floor = scores.get("popularity")
    if floor is None:
        return []
    return [
        f"{name} is below popularity on validation (NDCG@10 {score:.4f} against {floor:.4f}): {_remedy(recipe, name)}"
        for name, score in scores.items()
        if score < floor
    ]


def verdicts(
    recipe: Recipe,
    stages: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]],
    log: Sequence[Mapping[str, Any]],
) -> list[str]:
    """All that is wrong with a run: its stages in order, then its rows."""
    found = [
        line for stage in recipe.stages for line in stage_verdicts(recipe, stage.name, stages, losses(log, stage.name))
    ]
    return [*found, *row_verdicts(recipe, models)]


def notes_after(run: Run, step: str) -> list[str]:
    """What is wrong with what a step gave, right after it was done."""
    recipe = run.recipe
    if step in {stage.name for stage in recipe.stages}:
        log = last_trainings(read_log(run.path / LOG), recipe.steps)
        summaries = {name: done.summary for name, done in run.steps.items()}
        return stage_verdicts(recipe, step, summaries, losses(log, step))
    row = step.removeprefix(TEST_STEP)
    tested = {name: read_json(run.path / f"{TEST_STEP}{name}" / METRICS_FILE) for name in ("popularity", "before", row)}
    return row_verdicts(recipe, tested) if row != step else []


def losses(log: Sequence[Mapping[str, Any]], stage: str) -> list[float]:
    """The losses that a stage logged, by optimizer step; of one that was done twice the later."""
    points = {line["global_step"]: line["loss"] for line in log if line.get("step") == stage and "loss" in line}
    return [float(points[step]) for step in sorted(points)]


def _hardly_fell(recipe: Recipe, stage: Stage, losses: Sequence[float]) -> str:
    """A stage that goes on from a trained one, or trains a single row, has little to lose."""
    if stage.gives != "model" or _start(recipe, stage) is not None or len(losses) < 20:
        return ""
    span = max(1, min(20, len(losses) // 10))
    first, last = float(np.mean(losses[:span])), float(np.mean(losses[-span:]))
    if first - last >= HARDLY * abs(first):
        return ""
    return (
        f"{stage.name}: its loss hardly fell ({first:.2f} to {last:.2f}): raise stages.{stage.name}.learning_rate "
        + (f"({stage.learning_rate:g}) or stages.{stage.name}.epochs ({stage.epochs:g})")
    )


def _ended_worse(recipe: Recipe, stage: Stage, stages: Mapping[str, Mapping[str, Any]]) -> str:
    start = _start(recipe, stage)
    before = stages.get(start.name, {}).get(f"best_{METRIC}") if start else None
    after = stages[stage.name].get(f"best_{METRIC}")
    if start is None or before is None or after is None or after >= before:
        return ""
    same = ("validation_users", "seed")
    if any(getattr(start, key, None) != getattr(stage, key, None) for key in same):
        return ""  # other users: the numbers do not compare
    return (
        f"{stage.name} ended worse than {start.name}, which it began from (NDCG@10 {after:.4f}, before {before:.4f}): "
        f"lower stages.{stage.name}.learning_rate ({stage.learning_rate:g}) or raise its epochs ({stage.epochs:g})"
    )


def _still_rising(stage: Stage, summary: Mapping[str, Any]) -> str:
    scores = [score[METRIC] for score in summary.get("validations", ())]
    if len(scores) < 2 or summary.get("ended_by") == "patience" or scores[-1] != max(scores):
        return ""
    before = max(scores[:-1])
    if scores[-1] - before < RISING * scores[-1]:
        return ""
    rose = f"{stage.name}: validation was still rising when it ended (NDCG@10 {before:.4f}, then {scores[-1]:.4f})"
    if summary.get("ended_by") == "time":
        return f"{rose}: give the run more time (budget.minutes, or --minutes of `pauserec fit`)"
    return f"{rose}: raise stages.{stage.name}.epochs ({stage.epochs:g})"


def _start(recipe: Recipe, stage: Stage) -> Stage | None:
    """The validated stage that a validated stage goes on from."""
    if not hasattr(stage, "validation_users"):
        return None
    starts = {entry.name: entry for entry in recipe.stages if hasattr(entry, "validation_users")}
    return starts.get(stage.starts_from[0])


def _remedy(recipe: Recipe, name: str) -> str:
    stage = {row.name: row.stage for row in recipe.evaluation.models}.get(name)
    if stage is not None:
        return f"raise stages.{stage}.learning_rate or its epochs, or let `pauserec fit` choose the settings"
    if name in {baseline.name for baseline in recipe.baselines}:
        return f"raise baselines.{name}.epochs or its learning_rate"
    return "the histories may be too short to say more than what is popular"
