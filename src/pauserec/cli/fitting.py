"""`pauserec fit` from the command line: choose a recipe, or go on with the one that was chosen, then run it."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pauserec.cli.running import run_and_show
from pauserec.cli.terminal import one_line_warnings, quiet_libraries, say

if TYPE_CHECKING:
    from pauserec.config import Recipe


DEFAULT_MINUTES = 30.0


def fit_and_run(
    events: str,
    items: str | None,
    out: Path | None,
    minutes: float | None,
    overrides: tuple[str, ...],
    seed: int,
    *,
    update: Path | None,
    keep: str,
    dry_run: bool,
) -> None:
    """See `pauserec fit`. A folder whose recipe was chosen for the same files and minutes goes on with it."""
    from pauserec.errors import RunError
    from pauserec.fit.second_day import update_minutes
    from pauserec.runs.files import write_atomically
    from pauserec.runs.place import FIT, check_place, make_folder

    name = run_name(events)
    folder = out or (Path("runs") / name if update is None else update.with_name(f"{update.name}-{name}"))
    check_place(folder)
    quiet_libraries()
    if update is not None and folder.resolve() == update.resolve():
        raise RunError(
            f"--out {folder} is the run that --update goes on from, and stays as it is: choose another --out"
        )
    minutes = minutes or (DEFAULT_MINUTES if update is None else update_minutes(update))
    recipe = _chosen_before(folder / FIT, events, items, minutes, overrides, seed, update)
    if recipe is not None and not dry_run:
        say(f"going on with {folder / FIT}; delete it to choose anew")
    else:
        with one_line_warnings():
            recipe, text = _chosen(events, items, name, minutes, overrides, seed, update)
        make_folder(folder)
        write_atomically(folder / FIT, text.encode())
        say(f"wrote {folder / FIT}")
    if not dry_run:
        run_and_show(recipe.model_copy(update={"keep": keep}), folder, yes=True)


def run_name(events: str) -> str:
    """A run's name from the name of its events' file."""
    stem = re.sub(
        r"(\.(csv|tsv|txt|json|jsonl|ndjson|parquet|inter|gz|bz2|xz))+$", "", Path(events).name, flags=re.IGNORECASE
    )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100] or "fit"


def _chosen(
    events: str,
    items: str | None,
    name: str,
    minutes: float,
    overrides: tuple[str, ...],
    seed: int,
    update: Path | None,
) -> "tuple[Recipe, str]":
    from pauserec.fit.own_logs import plan
    from pauserec.fit.second_day import plan_update

    if update is not None:
        return plan_update(update, events, items, name=name, minutes=minutes, overrides=overrides, seed=seed, say=say)
    return plan(events, items, name=name, minutes=minutes, overrides=overrides, seed=seed, say=say)


def _chosen_before(
    path: Path,
    events: str,
    items: str | None,
    minutes: float,
    overrides: tuple[str, ...],
    seed: int,
    update: Path | None,
) -> "Recipe | None":
    """The recipe that was chosen for the same files and minutes, if one stands there."""
    from pauserec.config import Recipe

    if not path.exists():
        return None
    recipe = Recipe.load(path)
    there = tuple(each for each in overrides if each.partition(".")[0] in recipe.model_fields_set)
    if Recipe.load(path, there) != recipe:
        return None
    data = recipe.data
    same = (data.interactions or data.source, data.items) == (events, items) and recipe.budget.minutes == minutes
    same &= all(entry.seed == seed for entry in recipe.trained)
    same &= recipe.update.run == (None if update is None else str(update))
    return recipe if same else None
