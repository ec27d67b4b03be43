"""What comparing runs gives: rows under one protocol, which can be saved, read again and put together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from pauserec.errors import RunError
from pauserec.evaluation.metrics import METRICS


@dataclass
class Row:
    """One model, over all seeds it was run with. Metrics are means over seeds; intervals are over users."""

    model: str
    runs: list[str] = field(default_factory=list)
    """Names of the run folders."""
    final_fit: str = "train"
    metrics: dict[str, float] = field(default_factory=dict)
    ci95: dict[str, list[float]] = field(default_factory=dict)
    deviation: dict[str, float] | None = None
    """Standard deviation over seeds; None with one."""
    difference: float | None = None
    """Of NDCG@10 to the reference; a refitted row's, where there is one, to the reference refitted."""
    p_value: float | None = None
    train_seconds: float = 0.0
    device_hours: float | None = None
    """Of all training the model goes back to: seconds times devices. None: not known."""
    tokens: int | None = None
    """Of the same, repetitions included, padding left out."""
    trained_parameters: int | None = None
    """Most of any of its stages."""
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
        return asdict(self)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what --format json printed. Raises RunError."""
        try:
            found = TypeAdapter(cls).validate_json(path.read_bytes())
            known = [found.data["fingerprint"], found.data["users"], found.data["items"]]
            known += [(row.metrics[metric], row.ci95[metric]) for row in found.rows for metric in METRICS]
            known += [part["users"] for row in found.rows for part in row.slices.values()]
        except (ValidationError, KeyError):
            raise RunError(f"{path} is no comparison: give a run folder or what --format json printed") from None
        return found


def merged(parts: Sequence[tuple[str, Comparison]]) -> Comparison:
    """Comparisons under one protocol, each with its name, as one. What is in several of them (counts are) is taken once.

    Raises RunError where the protocols or references differ, or two rows of one name do.
    """
    name, first = parts[0]
    rows: dict[str, Row] = {}
    for other, part in parts:
        check_protocol(*({"name": n, "seen": p.seen, "data": p.data} for n, p in ((name, first), (other, part))))
        if part.reference != first.reference:
            raise RunError(
                f"{other} was tested against {part.reference or 'nothing'} and {name} against {first.reference or 'nothing'}: "
                "compare them from their runs"
            )
        for row in part.rows:
            if row.metrics != rows.setdefault(row.model, row).metrics:
                raise RunError(f"two rows are named {row.model!r} and differ: compare them from their runs")
    return Comparison(first.seen, first.data, first.reference, list(rows.values()))


def check_protocol(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises RunError where two results are not under one protocol. Both: name, seen, data."""
    names = (one["name"], other["name"])
    if one["seen"] != other["seen"]:
        raise RunError(
            f"{names[1]} has another rule for seen items than {names[0]} ({other['seen']} and {one['seen']}): compare runs "
            "of one protocol, or say --seen"
        )
    if one["data"].get("users_tested") != other["data"].get("users_tested"):
        raise RunError(
            f"{names[1]} was tested on other users than {names[0]} (evaluation.users): compare runs with the same"
        )
    if any(one["data"][key] != other["data"][key] for key in ("fingerprint", "users", "items")):
        prints = [run["data"]["fingerprint"][:12] for run in (other, one)]
        raise RunError(
            f"{names[1]} has other data than {names[0]} (fingerprints {prints[0]} and {prints[1]}): compare runs on the same"
        )
