"""Several runs in one table: metrics with intervals, paired significance, several seeds as one row, cost, slices.

Runs are only compared under one protocol: the same data, the same rule for seen items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pauserec.baselines.popularity import count_events
from pauserec.compare.entries import Comparison, Row, check_protocol, merged
from pauserec.data.dataset import load_dataset
from pauserec.errors import RunError
from pauserec.evaluation.evaluate import Seen
from pauserec.evaluation.metrics import METRICS, bootstrap_ci, per_user
from pauserec.evaluation.paired import coverage, mean_popularity, paired_p_value, slices
from pauserec.evaluation.ranks import ranks_of, read_ranks
from pauserec.evaluation.validation import tested_users
from pauserec.records import Dataset, IntArray
from pauserec.results.again import reevaluate
from pauserec.results.finished import RANKS, RESULT, open_finished
from pauserec.results.ledger import fit_of, ledger, table_rows
from pauserec.runs.folder import Run
from pauserec.runs.place import rerun

RESAMPLES = 1000
PAIRED = "ndcg@10"
"""The metric on which models are tested against the reference."""


_Ranked = tuple[IntArray, list[list[int]]]
"""Ranks per user, and lists of item numbers."""


@dataclass(frozen=True)
class _Entry:
    """One model of one run: per user and metric values, its lists, its cost."""

    run: Run
    model: str
    final_fit: str
    values: np.ndarray
    lists: list[list[int]]
    seconds: float
    ledger: Mapping[str, Any]
    ms_per_user: float
    made: str
    """Fingerprint of its test: of all that it was made from."""


def compare(paths: Sequence[Path], reference: str | None = None, seen: Seen | None = None) -> Comparison:
    """Compare the test results of finished runs, and of saved comparisons. Raises RunError where the protocols differ.

    reference: a row's name; every other row is tested against it, user by user. seen: a rule for seen items; the models
    of runs that were tested under the other one are tested again.
    """
    saved = [(str(path), Comparison.load(path)) for path in paths if path.is_file()]
    folders = [path for path in paths if not path.is_file()]
    if reference is not None and saved:
        raise RunError("testing against a reference takes every user's result: give run folders, no saved comparison")
    for name, part in saved:
        if seen not in (None, part.seen):
            raise RunError(
                f"{name} was saved with seen items: {part.seen}; only runs can be ranked again: give its run folders"
            )
    return merged([*([(str(folders[0]), _compared(folders, reference, seen))] if folders else []), *saved])


def _compared(paths: Sequence[Path], reference: str | None, seen: Seen | None) -> Comparison:
    runs = [open_finished(path) for path in paths]
    contents = [orjson.loads((run.path / RESULT).read_bytes()) for run in runs]
    again = [seen is not None and content["seen"] != seen for content in contents]
    contents = [content | ({"seen": seen} if seen else {}) for content in contents]
    for run, content in zip(runs, contents, strict=True):
        check_protocol(contents[0] | {"name": runs[0].path}, content | {"name": run.path})
    dataset = load_dataset(runs[0].finished("dataset").path)
    entries = []
    for run, content, anew in zip(runs, contents, again, strict=True):
        found = _ranked_again(run, seen) if anew else _as_written(run, content, dataset)
        entries += _entries(run, content, found)
    groups = _groups(entries)
    if reference is not None and reference not in groups:
        raise RunError(f"no row {reference!r} to compare with: choose one of {', '.join(groups)}")
    counts = count_events(dataset.training_sequences(), len(dataset.items))
    users = tested_users(len(dataset.users), runs[0].recipe.evaluation.users)
    parts = {name: inside if users is None else inside[users] for name, inside in slices(dataset, counts).items()}
    rows = [_row(name, members, dataset, counts, parts) for name, members in groups.items()]
    if reference is not None:
        _test_against(rows, groups, reference)
    return Comparison(contents[0]["seen"], contents[0]["data"], reference, rows)


def _as_written(run: Run, content: Mapping[str, Any], dataset: Dataset) -> dict[str, _Ranked]:
    frame, number_of = read_ranks(run.path / RANKS), dataset.number_of
    found: dict[str, _Ranked] = {}
    drawn = tested_users(len(dataset.users), run.recipe.evaluation.users)
    users = [dataset.users[user] for user in (range(len(dataset.users)) if drawn is None else drawn)]
    for name in content["models"]:
        rows = frame.filter((frame["model"] == name) & (frame["split"] == "test"))
        if rows["user_id"].to_list() != users:
            raise RunError(
                f"{run.path / RANKS} does not hold every user's rank by {name!r}: delete it, "
                f"{rerun(run.path)} writes it again"
            )
        lists = [[number_of[item] for item in row if item is not None] for row in rows["top_items"].to_list()]
        found[name] = ranks_of(frame, name, "test"), lists
    return found


def _ranked_again(run: Run, seen: Seen | None) -> dict[str, _Ranked]:
    results = reevaluate(run.path, "test", seen)
    return {
        name: (result.ranks, [[item for item in row if item >= 0] for row in result.top.tolist()])
        for name, result in results.items()
    }


def _entries(run: Run, content: Mapping[str, Any], ranked: Mapping[str, _Ranked]) -> list[_Entry]:
    tested = {name: run.finished(f"test-{name}") for name in content["models"]}
    costs = {row.model: row for row in table_rows(run.recipe, content, tested)}
    found = []
    for name in content["models"]:
        (ranks, lists), cost, fit = ranked[name], costs[name], fit_of(run.recipe, name)
        spent = (cost.train_seconds or 0.0, ledger(run.recipe, content, name), cost.ms_per_user or 0.0)
        found.append(_Entry(run, name, fit, per_user(ranks), lists, *spent, tested[name].fingerprint))
    return found


def _groups(entries: Sequence[_Entry]) -> dict[str, list[_Entry]]:
    """Entries that differ in nothing but seeds, under one name: the model's, or RUN/MODEL where two would share it.

    One that was fitted on validation events too says so in its name.
    """
    groups: dict[tuple[str, bytes], list[_Entry]] = {}
    for entry in entries:
        settings = orjson.dumps(_seedless(_nameless(entry.run)), option=orjson.OPT_SORT_KEYS)
        counted = entry.model in entry.run.recipe.evaluation.baselines  # the same in every run with the same counts
        name = entry.model if entry.final_fit == "train" else f"{entry.model}, refitted"
        members = groups.setdefault((name, entry.values.tobytes() if counted else settings), [])
        if counted and members:
            continue
        for other in members:
            if _nameless(other.run) == _nameless(entry.run):
                raise RunError(f"{entry.run.path} is the same recipe as {other.run.path}, seeds too: give one of them")
        if all(other.made != entry.made for other in members):  # another model's seed makes no other model of this one
            members.append(entry)
    names = [model for model, _ in groups]
    folders = [members[0].run.path for members in groups.values()]
    short = len({folder.name for folder in folders}) == len(set(folders))
    named: dict[str, list[_Entry]] = {}
    for (model, _), members in groups.items():
        folder = members[0].run.path
        named[model if names.count(model) == 1 else f"{folder.name if short else folder}/{model}"] = members
    return named


def _nameless(run: Run) -> dict[str, Any]:
    return run.recipe.model_dump(mode="json", exclude={"name"})


def _seedless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _seedless(entry) for key, entry in value.items() if key != "seed"}
    return [_seedless(entry) for entry in value] if isinstance(value, list) else value


def _row(
    name: str, members: Sequence[_Entry], dataset: Dataset, counts: np.ndarray, parts: Mapping[str, np.ndarray]
) -> Row:
    values = np.mean([entry.values for entry in members], axis=0)
    per_seed = np.array([entry.values.mean(axis=0) for entry in members])
    return Row(
        model=name,
        runs=[entry.run.path.name for entry in members],
        final_fit=members[0].final_fit,
        metrics=dict(zip(METRICS, values.mean(axis=0).tolist(), strict=True)),
        ci95=dict(zip(METRICS, bootstrap_ci(values, RESAMPLES).tolist(), strict=True)),
        deviation=dict(zip(METRICS, per_seed.std(axis=0, ddof=1).tolist(), strict=True)) if len(members) > 1 else None,
        train_seconds=float(np.mean([entry.seconds for entry in members])),
        device_hours=float(np.mean([entry.ledger["device_hours"] for entry in members])),
        tokens=round(np.mean([entry.ledger["tokens"] for entry in members])),
        trained_parameters=max(entry.ledger["trained_parameters"] for entry in members),
        ms_per_user=float(np.mean([entry.ms_per_user for entry in members])),
        coverage=float(np.mean([coverage(entry.lists, len(dataset.items)) for entry in members])),
        popularity=float(np.mean([mean_popularity(entry.lists, counts) for entry in members])),
        slices={part: _slice(values[inside]) for part, inside in parts.items()},
    )


def _slice(values: np.ndarray) -> dict[str, float]:
    """Users of a slice and their means; no means where there is nobody."""
    chosen = [metric for metric in ("hit@10", "ndcg@10") if len(values)]
    return {"users": len(values)} | {name: float(values[:, METRICS.index(name)].mean()) for name in chosen}


def _test_against(rows: Sequence[Row], groups: Mapping[str, Sequence[_Entry]], reference: str) -> None:
    column = METRICS.index(PAIRED)
    values = {name: np.mean([entry.values[:, column] for entry in members], axis=0) for name, members in groups.items()}
    refitted = f"{reference}, refitted"
    for row in rows:
        other = refitted if row.final_fit != "train" and refitted in values else reference
        if row.model != other:
            differences = values[row.model] - values[other]
            row.difference, row.p_value = float(differences.mean()), paired_p_value(differences)
