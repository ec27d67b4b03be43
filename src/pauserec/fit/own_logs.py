"""`pauserec fit`: from a person's own files to a recipe that fits them, this machine and the time. Read `plan` first."""

import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from pauserec.assets import named
from pauserec.config import DataConfig, Recipe
from pauserec.config.overrides import apply_override
from pauserec.data.dataset import load_dataset, prepare
from pauserec.data.raw.layouts import files_in
from pauserec.errors import DataError, RecipeError
from pauserec.fit.choose import choose
from pauserec.fit.draft import Chosen, Task
from pauserec.fit.guess import find_columns
from pauserec.fit.machine import Machine, embedding_seconds
from pauserec.fit.written import written
from pauserec.records import Dataset

CORES = (5, 4, 3)
"""Least events of a user and of an item that are tried; the first that keeps enough is taken."""
KEPT = 0.5
"""Share of the events that is enough."""
CHOSEN_SECTIONS = ("embedder", "quantizer", "model", "prompt", "decoding", "stages", "baselines")
CHOSEN_NAMES = ("sft", "pause_pretrain", "implicit_sft", "sasrec", "sft-2", "sft-3")
"""Sections, stages and baselines that may be left out."""
FEWEST_USERS = 20
"""Fewer users than this say nothing that a model could learn, or a table show."""


def plan(
    events: str,
    items: str | None,
    *,
    name: str,
    minutes: float,
    overrides: tuple[str, ...] = (),
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Recipe, str]:
    """The recipe that fits, and its text with the reason of each choice. Nothing is written.

    overrides: `KEY=VALUE` settings that count more than what is chosen. say: told what was found and what was left out.
    Raises PauserecError.
    """
    begin = time.perf_counter()
    own = tuple(override for override in overrides if override.startswith("data."))
    data = _found(_data(events, items, own), own, say)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        data, dataset = _prepared(data, Path(folder), own)
        reading = time.perf_counter() - began
    say(f"{len(dataset.users):,} users, {len(dataset.items):,} items, {dataset.interactions:,} events after cleaning")
    say("measuring this machine ...")
    text = any(item.title or item.categories for item in dataset.items)
    embedder = Recipe.parse({"name": name}, tuple(each for each in overrides if each.startswith("embedder."))).embedder
    embedding = embedding_seconds(embedder, dataset) if text else 0.0
    spent = time.perf_counter() - begin
    task = Task(name, data, minutes, spent, reading, embedding, seed, overrides)
    chosen = choose(task, dataset, Machine)
    chosen.content["budget"]["spent"] = round(time.perf_counter() - begin, 1)
    for line in chosen.left_out:
        say(f"left out: {line}")
    for override in overrides:
        if _has_place(override, chosen.content):
            apply_override(chosen.content, override)
        else:
            say(f"not used: --set {override}, for what it sets was left out")
    content = written(chosen.content, chosen.reasons, _head(chosen, dataset, minutes))
    return Recipe.parse(deepcopy(chosen.content)), content


def _has_place(override: str, content: dict[str, Any]) -> bool:
    """Whether what an override sets is in the recipe, or cannot be: then to set it is an error."""
    section, _, rest = override.partition("=")[0].strip().partition(".")
    if section not in content:
        return section not in CHOSEN_SECTIONS
    name = rest.partition(".")[0]
    return name not in CHOSEN_NAMES or name in {entry["name"] for entry in content[section]}


def _data(events: str, items: str | None, own: tuple[str, ...]) -> DataConfig:
    """The files as settings: a known data set, a folder with known files, or a file of one's own."""
    known = items is None and (named.is_known(events) or files_in(Path(events).expanduser()) is not None)
    files: dict[str, Any] = {"source": events} if known else {"interactions": events, "items": items}
    return Recipe.parse({"name": "fit", "data": files}, own).data


def _found(data: DataConfig, own: tuple[str, ...], say: Callable[[str], None]) -> DataConfig:
    if data.interactions is None:
        say(f"data: {data.source}")
        return data
    found = find_columns(data, {override.partition("=")[0].strip() for override in own})
    for line in found.lines:
        say(line)
    return found.data


def _prepared(data: DataConfig, folder: Path, own: tuple[str, ...]) -> tuple[DataConfig, Dataset]:
    """The data set, with the largest core that leaves enough of it. Raises DataError where too little is left."""
    fixed = any(override.startswith("data.min_interactions") for override in own)
    best: tuple[int, DataConfig, Dataset] | None = None
    error: DataError | None = None
    for core in (data.min_interactions,) if fixed else CORES:
        tried = data.model_copy(update={"min_interactions": core})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if best else "default")
                summary = prepare(tried, out=folder / str(core), log=lambda **_: None)
        except DataError as found:
            error = error or found
            continue
        dataset = load_dataset(folder / str(core))
        if best is None or dataset.interactions > best[0] / KEPT:
            best = (dataset.interactions, tried, dataset)
        if dataset.interactions >= KEPT * (summary["interactions"] + _outside(folder / str(core))):
            break
    if best is None:
        raise error or DataError("no data")
    if len(best[2].users) < FEWEST_USERS:
        raise DataError(
            f"{len(best[2].users)} users have at least {best[1].min_interactions} events: give logs of at least {FEWEST_USERS} "
            "such users"
        )
    return best[1], best[2]


def _outside(folder: Path) -> int:
    from pauserec.runs.files import read_json

    return int(read_json(folder / "report.json").get("outside_core", 0))


def _head(chosen: Chosen, dataset: Dataset, minutes: float) -> str:
    lines = [
        f"Written by `pauserec fit` for {len(dataset.users):,} users, {len(dataset.items):,} items and "
        f"{dataset.interactions:,} events, and for {minutes:g} minute{'s' * (minutes != 1)}.",
        "An ordinary recipe: change what you like, then `pauserec run` this file.",
        *(f"Left out: {line}." for line in chosen.left_out),
    ]
    return "\n".join(lines)


def check_minutes(minutes: float) -> None:
    """Raise RecipeError for a time that nothing fits into."""
    if minutes < 1:
        raise RecipeError(f"--minutes {minutes:g}: give at least 1")
