"""What stands behind a row of a run's table: its stages, their cost, and the events they were fitted on."""

from collections.abc import Mapping
from typing import Any

from pauserec.config import Recipe
from pauserec.results.table import TableRow
from pauserec.runs.steps import FinishedStep


def table_rows(recipe: Recipe, content: Mapping[str, Any], tested: Mapping[str, FinishedStep]) -> list[TableRow]:
    """The result table, test split: training seconds of a model are those of every stage it goes back to."""
    rows = []
    stage_of = {model.name: model.stage for model in recipe.evaluation.models}
    for name, model in content["models"].items():
        if name in stage_of:
            seconds = sum(content["stages"][step]["seconds"] for step in _trained(recipe, name))
        else:
            seconds = tested[name].summary["fit_seconds"]
        rows.append(TableRow(name, model["test"], seconds, model["decoding"]["ms_per_user"]))
    return rows


def ancestry(recipe: Recipe, stage: str) -> list[str]:
    """The stage and all stages it goes back to, in the recipe's order."""
    starts = {entry.name: entry.starts_from for entry in recipe.stages}
    needed, open_ = set(), [stage]
    while open_:
        name = open_.pop()
        if name in starts and name not in needed:
            needed.add(name)
            open_ += starts[name]
    return [entry.name for entry in recipe.stages if entry.name in needed]


def ledger(recipe: Recipe, content: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What the stages of a model took together, as result.json has it; zeros where nothing is trained."""
    stages = [content["stages"][name] for name in _trained(recipe, model) if name in content["stages"]]
    hours = [stage.get("device_hours", stage.get("training_seconds", 0.0) / 3600) for stage in stages]
    return {
        "device_hours": sum(hours),
        "tokens": sum(stage["tokens"] for stage in stages),
        "trained_parameters": max((stage["trainable_parameters"] for stage in stages), default=0),
    }


def fit_of(recipe: Recipe, model: str) -> str:
    """The events a row's model was fitted on: "train" or "train+validation"."""
    if model in recipe.evaluation.baselines:
        return recipe.evaluation.final_fit
    stage_of = {entry.name: entry.stage for entry in recipe.evaluation.models}
    return recipe.fitted_on(stage_of.get(model, model))


def _trained(recipe: Recipe, model: str) -> list[str]:
    """The stages or the baseline behind a row, in order; first the baseline that shaped its IDs."""
    stage_of = {entry.name: entry.stage for entry in recipe.evaluation.models}
    over_ids = {*stage_of, *(baseline.name for baseline in recipe.over_ids)}
    shaping = [recipe.embedder.baseline] if recipe.embedder.baseline and model in over_ids else []
    return shaping + (ancestry(recipe, stage_of[model]) if model in stage_of else [model])
