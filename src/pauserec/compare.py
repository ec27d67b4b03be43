"""Several runs in one table: metrics with intervals, paired significance, several seeds as one row, cost, slices.

Runs are only compared under one protocol: the same data, the same rule for seen items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pauserec.baselines.popularity import count_events
from pauserec.data.splits import load_dataset
from pauserec.errors import RunError
from pauserec.evaluation.metrics import METRICS, bootstrap_ci, per_user
from pauserec.evaluation.paired import coverage, mean_popularity, paired_p_value, slices
from pauserec.evaluation.ranks import ranks_of, read_ranks
from pauserec.records import Dataset
from pauserec.results import RANKS, RESULT, open_finished, table_rows
from pauserec.run import Run

RESAMPLES = 1000
PAIRED = "ndcg@10"
"""The metric on which models are tested against the reference."""


@dataclass
class Row:
    """One model, over all seeds it was run with. Metrics are means over seeds; intervals are over users."""

    model: str
    runs: list[str] = field(default_factory=list)
    final_fit: str = "train"
    metrics: dict[str, float] = field(default_factory=dict)
    ci95: dict[str, list[float]] = field(default_factory=dict)
    deviation: dict[str, float] | None = None
    """Standard deviation over seeds; None with one."""
    difference: float | None = None
    """Of NDCG@10 to the reference."""
    p_value: float | None = None
    train_seconds: float = 0.0
    ms_per_user: float = 0.0
    coverage: float = 0.0
    """Share of the catalogue in some user's first 10."""
    popularity: float = 0.0
    """Mean popularity percentile of what is shown."""
    slices: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per slice: users, hit@10, ndcg@10."""


@dataclass(frozen=True)
class Comparison:
    """Rows under one protocol."""

    seen: str
    data: Mapping[str, Any]
    reference: str | None
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        """For --format json."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class _Entry:
    """One model of one run: per user and metric values, its lists, its cost."""

    run: Run
    model: str
    final_fit: str
    values: np.ndarray
    lists: list[list[int]]
    seconds: float
    ms_per_user: float


def compare(paths: Sequence[Path], reference: str | None = None) -> Comparison:
    """Compare the test results of finished runs. Raises RunError where they are not under one protocol.

    reference: a row's name; every other row is tested against it, user by user.
    """
    runs = [open_finished(path) for path in paths]
    contents = [orjson.loads((run.path / RESULT).read_bytes()) for run in runs]
    for run, content in zip(runs[1:], contents[1:], strict=True):
        for key, name in (("seen", "seen items"), ("data", "data")):
            if content[key] != contents[0][key]:
                raise RunError(
                    f"{run.path} has another rule for {name} than {runs[0].path} "
                    f"({content[key]} and {contents[0][key]}): compare runs of one protocol"
                )
    dataset = load_dataset(runs[0].finished("dataset").path)
    entries = [entry for run, content in zip(runs, contents, strict=True) for entry in _entries(run, content, dataset)]
    groups = _groups(entries)
    if reference is not None and reference not in groups:
        raise RunError(f"no row {reference!r} to compare with: choose one of {', '.join(groups)}")
    counts = count_events(dataset.training_sequences(), len(dataset.items))
    rows = [_row(name, members, dataset, counts) for name, members in groups.items()]
    if reference is not None:
        _test_against(rows, groups, reference)
    return Comparison(contents[0]["seen"], contents[0]["data"], reference, rows)


def _entries(run: Run, content: Mapping[str, Any], dataset: Dataset) -> list[_Entry]:
    ranks, number_of = read_ranks(run.path / RANKS), dataset.number_of
    tested = {name: run.finished(f"test-{name}") for name in content["models"]}
    costs = {row.model: row for row in table_rows(run.recipe, content, tested)}
    found = []
    for name in content["models"]:
        rows = ranks.filter((ranks["model"] == name) & (ranks["split"] == "test"))
        lists = [[number_of[item] for item in row if item is not None] for row in rows["top_items"].to_list()]
        values = per_user(ranks_of(ranks, name, "test"))
        cost = costs[name]
        fit = _final_fit(run, name)
        found.append(_Entry(run, name, fit, values, lists, cost.train_seconds or 0.0, cost.ms_per_user or 0.0))
    return found


def _final_fit(run: Run, model: str) -> str:
    stage_of = {entry.name: entry.stage for entry in run.recipe.evaluation.models}
    steps = {step.name: step for step in (*run.recipe.stages, *run.recipe.baselines)}
    step = steps.get(stage_of.get(model, model))
    return str(getattr(step, "final_fit", "train"))


def _groups(entries: Sequence[_Entry]) -> dict[str, list[_Entry]]:
    """Entries that differ in nothing but seeds, under one name: the model's, or RUN/MODEL where two would share it."""
    groups: dict[tuple[str, bytes], list[_Entry]] = {}
    for entry in entries:
        settings = orjson.dumps(_seedless(_nameless(entry.run)), option=orjson.OPT_SORT_KEYS)
        counted = entry.model in entry.run.recipe.evaluation.baselines  # counts know neither settings nor seeds
        members = groups.setdefault((entry.model, b"" if counted else settings), [])
        if counted and members:
            continue
        for other in members:
            if _nameless(other.run) == _nameless(entry.run):
                raise RunError(f"{entry.run.path} is the same recipe as {other.run.path}, seeds too: give one of them")
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


def _row(name: str, members: Sequence[_Entry], dataset: Dataset, counts: np.ndarray) -> Row:
    values = np.mean([entry.values for entry in members], axis=0)
    per_seed = np.array([entry.values.mean(axis=0) for entry in members])
    histories = dataset.split("test")
    targets = np.array([history.target for history in histories])
    parts = slices([history.items for history in histories], targets, counts)
    return Row(
        model=name,
        runs=[str(entry.run.path) for entry in members],
        final_fit=members[0].final_fit,
        metrics=dict(zip(METRICS, values.mean(axis=0).tolist(), strict=True)),
        ci95=dict(zip(METRICS, bootstrap_ci(values, RESAMPLES).tolist(), strict=True)),
        deviation=dict(zip(METRICS, per_seed.std(axis=0, ddof=1).tolist(), strict=True)) if len(members) > 1 else None,
        train_seconds=float(np.mean([entry.seconds for entry in members])),
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
    for row in rows:
        if row.model != reference:
            differences = values[row.model] - values[reference]
            row.difference, row.p_value = float(differences.mean()), paired_p_value(differences)
