"""One self-contained HTML page per run: results, cost, curves, semantic IDs, data, embeddings, examples.

The page makes no request: figures are inline SVG, styles are inline, and a content security policy forbids the rest.
Titles, names and ids are other people's text, so the template escapes everything but our own figures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pauserec.evaluation.metrics import METRICS
from pauserec.records import FloatArray
from pauserec.report import figures
from pauserec.results.best import best_first
from pauserec.results.table import HEADINGS
from pauserec.runs.files import write_atomically

REPORT = "report.html"
TEMPLATES = Path(__file__).parent
NDCG = "validation_ndcg@10"


@dataclass(frozen=True, slots=True)
class ShownItem:
    """An item in an example: what a reader sees of it."""

    item_id: str
    title: str


@dataclass(frozen=True)
class Example:
    """One user: history (oldest first), the held-out item, and each model's list, best first."""

    user_id: str
    history: Sequence[ShownItem]
    target: ShownItem
    recommendations: Mapping[str, Sequence[ShownItem]]


@dataclass(frozen=True)
class EmbeddingRows:
    """Rows of a stage's input embeddings: text [n, d], SID codes [m, d], pause [1, d] (or [0, d] where it has none)."""

    stage: str
    text: FloatArray
    sid: FloatArray
    pause: FloatArray


@dataclass(frozen=True)
class ReportContent:
    """Everything the page shows. Sections without content are left out."""

    name: str
    """Name of the recipe."""
    seen: str
    """"keep" or "drop"."""
    final_fit: str
    """"train" or "train+validation"."""
    data: Mapping[str, Any]
    """{"fingerprint", "users", "items", "interactions", ...}."""
    models: Mapping[str, Mapping[str, Any]]
    """As in result.json: {name: {"test": metrics, "validation": metrics, "decoding": {...}}}."""
    costs: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds of training, and milliseconds a user, of each model."""
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """As in result.json: {name: {"seconds", "tokens", "trainable_parameters"}}."""
    log: Sequence[Mapping[str, Any]] = ()
    """Lines of log.jsonl, as `read_log` gives them."""
    quality: Mapping[str, Any] = field(default_factory=dict)
    """Semantic-ID quality (quality.json)."""
    data_report: Mapping[str, Any] = field(default_factory=dict)
    """What happened to the raw rows: counts per class, ties."""
    embeddings: Sequence[EmbeddingRows] = ()
    examples: Sequence[Example] = ()
    best: str | None = None
    """The row that is best on validation."""
    notes: Sequence[str] = ()
    """What went wrong in the run, one line each."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further lines of the header: backbone, versions, hardware."""


@dataclass(frozen=True)
class FactTable:
    """A heading, scalar facts (label, value), and facts that have one value per level."""

    heading: str
    scalars: list[tuple[str, Any]]
    per_level: list[tuple[str, Sequence[Any]]]


def write_report(run_path: Path, content: ReportContent) -> Path:
    """Write report.html into a run folder and give back its path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, label=label, duration=duration)
    page = environment.get_template(REPORT).render(
        content=content,
        metrics=[(metric, HEADINGS[metric]) for metric in METRICS],
        splits=list(_splits(content.models)),
        costs=cost_charts({name: model["test"]["ndcg@10"] for name, model in content.models.items()}, content.costs),
        curves=_curves(content),
        unreadable=sum(line.get("event") == "unreadable" for line in content.log),
        quality=fact_tables(content.quality),
        data_report=fact_tables(content.data_report),
        planes=_planes(content.embeddings),
    )
    path = run_path / REPORT
    # lone surrogates cannot be written as UTF-8
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def number(value: Any) -> str:
    """A value as a reader wants it: 1,349; 0.1083; 12.5; yes; –."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        return f"{value:,.0f}" if 1000 <= abs(float(value)) < math.inf else f"{value:.4g}"
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(number(entry) for entry in value) or "none"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds as a reader wants them: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def label(key: Any) -> str:
    """A key as words: collision_rate -> collision rate."""
    return str(key).replace("_", " ")


def fact_tables(facts: Mapping[str, Any], heading: str = "") -> list[FactTable]:
    """Nested facts as flat tables: lists of equal length stand as columns per level, inner mappings as own tables."""
    inner = {key: value for key, value in facts.items() if isinstance(value, Mapping)}
    lists = {key: list(value) for key, value in facts.items() if isinstance(value, list | tuple | np.ndarray)}
    lengths = [len(value) for value in lists.values() if len(value) > 1]
    levels = max(set(lengths), key=lengths.count) if lengths else 0
    per_level = {key: value for key, value in lists.items() if levels and len(value) == levels}
    scalars = [(label(key), value) for key, value in facts.items() if key not in inner and key not in per_level]
    tables = []
    if scalars or per_level:
        tables.append(FactTable(heading, scalars, [(label(key), value) for key, value in per_level.items()]))
    for key, value in inner.items():
        tables += fact_tables(value, f"{heading} · {label(key)}" if heading else label(key))
    return tables


def _splits(models: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Per split: its rows, the best value of each metric, and a chart of NDCG@10."""
    for split in ("test", "validation"):
        rows = {name: models[name][split] for name in best_first(models, split)}
        if not rows:
            continue
        chart = {name: (row["ndcg@10"], *row["ci95"]["ndcg@10"]) for name, row in rows.items()}
        yield {
            "name": split,
            "rows": rows,
            "users": max(row["users"] for row in rows.values()),
            "best": {metric: max(row[metric] for row in rows.values()) for metric in METRICS},
            "chart": Markup(figures.interval_chart(chart, f"NDCG@10, {split}, 95% interval")),
        }


def cost_charts(values: Mapping[str, float], costs: Mapping[str, tuple[float, float]]) -> list[Markup]:
    """Test NDCG@10 against training time and against latency; nothing where there are no two models to compare.

    costs: seconds of training and milliseconds a user by model.
    """
    if len(costs) < 2:
        return []
    axes = ("training, seconds", "ranking, milliseconds a user")
    points = [{name: (cost[place], values[name]) for name, cost in costs.items()} for place in range(len(axes))]
    return [Markup(figures.cost_chart(p, label, "NDCG@10, test")) for p, label in zip(points, axes, strict=True)]


def _curves(content: ReportContent) -> list[dict[str, Any]]:
    """Per stage, in order of first appearance: loss, validation, and how many losses were not finite."""
    stages = dict.fromkeys(str(line["step"]) for line in content.log if "step" in line)
    curves = []
    for stage in stages:
        lines = [line for line in content.log if line.get("step") == stage]
        loss, broken = _points(lines, "loss")
        ndcg, _ = _points(lines, NDCG)
        if not loss and not ndcg and not broken:
            continue
        curves.append(
            {
                "stage": stage,
                "broken": broken,
                "loss": _draw(loss, stage, "training loss"),
                "ndcg": _draw(ndcg, stage, "validation NDCG@10", mark=True),
            }
        )
    return curves


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[list[tuple[float, float]], int]:
    """(step, value) pairs of one metric, and the number of values that are no finite number.

    A resumed stage logs some steps again; the later line counts.
    """
    points: dict[float, float] = {}
    broken = 0
    for index, line in enumerate(line for line in lines if key in line):
        value = line[key]
        if isinstance(value, int | float) and math.isfinite(value):
            points[float(line.get("global_step", index + 1))] = float(value)
        else:
            broken += 1
    return sorted(points.items()), broken


def _draw(points: list[tuple[float, float]], stage: str, y_label: str, mark: bool = False) -> Markup | None:
    if not points:
        return None
    return Markup(figures.curve(points, stage, "optimizer step", y_label, mark=mark))


def _planes(embeddings: Sequence[EmbeddingRows]) -> list[dict[str, Any]]:
    """One scatter per stage, all on the same plane, so that what moved can be seen to have moved."""
    if not embeddings:
        return []
    rows = [figures.sampled(part) for stage in embeddings for part in (stage.text, stage.sid, stage.pause)]
    plane = figures.Plane(np.concatenate(rows))
    drawn = []
    for stage in embeddings:
        kinds = {"text": stage.text, "semantic ID": stage.sid, "pause": stage.pause}
        drawn.append({"stage": stage.stage, "svg": Markup(figures.projected(kinds, plane, stage.stage))})
    return drawn
