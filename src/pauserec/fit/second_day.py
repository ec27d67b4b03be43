"""`pauserec fit --update`: from a finished run and the events since to the recipe of a run that goes on from it."""

import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from pauserec.config import DataConfig, Recipe, Stage
from pauserec.config.overrides import apply_override
from pauserec.data.dataset import load_dataset, prepare
from pauserec.errors import RunError
from pauserec.fit import rules
from pauserec.fit.choose import epochs_that_fit
from pauserec.fit.draft import Chosen
from pauserec.fit.guess import find_columns
from pauserec.fit.machine import Machine
from pauserec.fit.rules import Shape
from pauserec.fit.written import written
from pauserec.results.best import best_row
from pauserec.results.finished import RESULT, open_finished
from pauserec.runs.files import read_json


def update_minutes(run: Path) -> float:
    """The minutes of an update where none are given: a sixth of those of the first run."""
    return max(1.0, round((open_finished(run).recipe.budget.minutes or 30) / 6, 1))


def plan_update(
    run: Path,
    events: str,
    items: str | None,
    *,
    name: str,
    minutes: float,
    overrides: tuple[str, ...] = (),
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Recipe, str]:
    """The recipe of the update, and its text. Nothing is written. See own_logs.plan. Raises PauserecError."""
    begin = time.perf_counter()
    earlier = open_finished(run)
    recipe, content = earlier.recipe, read_json(earlier.path / RESULT)
    rows = {row.name: row.stage for row in recipe.evaluation.models}
    row = best_row(content["models"], rows.keys())
    own = tuple(override for override in overrides if override.startswith("data."))
    data = _data(recipe, run, events, items, own, say)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        summary = prepare(data, out=Path(folder), log=lambda **_: None)
        dataset, reading = load_dataset(Path(folder)), time.perf_counter() - began
    before = load_dataset(run / "dataset")
    came = [len(dataset.users) - len(before.users), len(dataset.items) - len(before.items)]
    more = dataset.interactions - before.interactions
    say(f"{more:,} new events, {came[0]:,} new users, {came[1]:,} new items; {summary['users']:,} users in all")
    if more <= 0:
        raise RunError(f"{events} holds no event that {run} does not know: give the events since")
    shape = Shape.of(dataset)
    chosen = Chosen(_content(recipe, data, name), {}, [], {"dataset": reading})
    counting = 2 * shape.users * shape.items * rules.COUNT_SECONDS
    chosen.expected |= {"test-popularity": 1 + counting / 10, "test-co-occurrence": 2 + counting}
    left = 60 * minutes * (1 - rules.RESERVE) - (time.perf_counter() - begin) - sum(chosen.expected.values())
    left -= _baselines(chosen, recipe, content, left)
    if row is None:
        chosen.left_out.append("a language model: the earlier run has none")
    else:
        stage = next(stage for stage in recipe.stages if stage.name == rows[row])
        _goes_on(chosen, recipe, run, stage, dataset, shape, left, seed)
    used = {step: round(max(seconds, 0.1), 1) for step, seconds in chosen.expected.items()}
    spent = round(time.perf_counter() - begin, 1)
    chosen.content["budget"] = {"minutes": minutes, "spent": spent, "expected": used}
    for line in chosen.left_out:
        say(f"left out: {line}")
    head = f"Written by `pauserec fit --update {run}`: {more:,} new events, for {minutes:g} minutes."
    for override in overrides:
        apply_override(chosen.content, override)
    return Recipe.parse(deepcopy(chosen.content)), written(chosen.content, chosen.reasons, head)


def _data(
    recipe: Recipe, run: Path, events: str, items: str | None, own: tuple[str, ...], say: Callable[[str], None]
) -> DataConfig:
    """The new files, read as the earlier ones were where they have the same columns."""
    new = {"interactions": events, "items": items, "after": str(run / "dataset")}
    data = recipe.data.model_dump(mode="json", exclude_defaults=True) | new
    found = find_columns(Recipe.parse({"name": "update", "data": data}, own).data)
    for line in found.lines:
        say(line)
    return found.data


def _content(recipe: Recipe, data: DataConfig, name: str) -> dict[str, Any]:
    """The earlier recipe's settings that stay."""
    kept = recipe.model_dump(
        mode="json", exclude_defaults=True, exclude={"name", "data", "stages", "baselines", "budget"}
    )
    kept = {key: value for key, value in kept.items() if key not in ("made_for", "update", "keep")}
    kept["evaluation"] = kept.get("evaluation", {}) | {"models": []}
    return {"name": name, "data": data.model_dump(mode="json", exclude_defaults=True), **kept}


def _baselines(chosen: Chosen, recipe: Recipe, content: dict[str, Any], left: float) -> float:
    """Train the earlier run's baselines anew as far as they fit, for they know items by number; gives their seconds."""
    kept, total = [], 0.0
    for baseline in recipe.over_items:
        seconds = float(content["stages"][baseline.name]["seconds"])
        if total + seconds > rules.SHARE_OF_SASREC * left:
            chosen.left_out.append(f"{baseline.name}: it would be trained anew, about {seconds / 60:.1f} minutes")
            continue
        total += seconds
        kept.append(baseline.model_dump(mode="json"))
        chosen.expected |= {baseline.name: seconds, f"test-{baseline.name}": 2.0}
    if kept:
        chosen.content["baselines"] = kept
    return total + 2.0 * len(kept)


def _goes_on(
    chosen: Chosen, recipe: Recipe, run: Path, stage: Stage, dataset: Any, shape: Shape, left: float, seed: int
) -> None:
    """The stage that trains the earlier model further, and the rows before and after."""
    plain = stage.model_dump(mode="json", exclude_defaults=True) | {"name": stage.name, "kind": stage.kind}
    starts = ["base"] * len(stage.starts_from)
    plain |= {
        "starts_from": starts,
        "epochs": 1.0,
        "learning_rate": rules.UPDATE_RATE * stage.learning_rate,
        "seed": seed,
    }
    plain.pop("distill", None)  # its own predictions without pauses would be a worse teacher than the labels
    chosen.content["stages"] = [plain]
    chosen.content["update"] = {"run": str(run), "stage": stage.name}
    chosen.content["evaluation"]["models"] = [
        {"name": "before", "stage": "base"},
        {"name": stage.name if stage.kind == "sft" else "pauserec", "stage": stage.name},
    ]
    chosen.content["evaluation"].pop("users", None)
    chosen.reasons["evaluation.models.before"] = (
        "The earlier model as it was, on the new data: was the update worth it?"
    )
    chosen.reasons[f"stages.{stage.name}"] = "Goes on from the earlier model, at a lower learning rate."
    once = Recipe.parse(deepcopy(chosen.content))
    pace = Machine(once, dataset).pace(once.stages[0])
    fixed = {"vectors": 8.0, "semantic_ids": 2.0, "base": 6.0}
    left -= sum(fixed.values())
    tested = min(shape.users, max(rules.FEWEST_TESTED, int(rules.SHARE_OF_TESTS * 2 * left / (4 * pace.rank_seconds))))
    tests = 3 + 2 * tested * pace.rank_seconds
    left -= 2 * tests
    epochs, users = epochs_that_fit(pace, left, rules.UPDATE_EPOCHS, shape)
    # an update that only makes it worse leaves the earlier model
    plain |= {"epochs": max(epochs, 0.05), "validation_users": users, "validate_every": 0, "validate_start": True}
    after = chosen.content["evaluation"]["models"][1]["name"]
    chosen.expected |= fixed | {"test-before": tests, f"test-{after}": tests, stage.name: left}
    if tested < shape.users:
        chosen.content["evaluation"]["users"] = tested
        chosen.left_out.append(f"tests of all users: {tested:,} of {shape.users:,} are drawn, the same for every row")
