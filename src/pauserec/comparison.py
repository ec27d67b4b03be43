"""What comparing runs gives: rows under one protocol, which can be saved, read again and put together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from pauserec.errors import RunError


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

    @property
    def protocol(self) -> Mapping[str, Any]:
        """For check_protocol."""
        return {"name": self.rows[0].runs[0] if self.rows else "a comparison", "seen": self.seen, "data": self.data}

    def as_json(self) -> dict[str, Any]:
        """For --format json."""
        return asdict(self)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what --format json printed. Raises RunError."""
        try:
            content = orjson.loads(path.read_bytes())
            rows = [Row(**row) for row in content.pop("rows")]
            return cls(**content, rows=rows)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            raise RunError(f"{path} is no comparison: give a run folder or what --format json printed") from None


def merged(parts: Sequence[Comparison]) -> Comparison:
    """Comparisons under one protocol as one. What is in several of them (counts are) is taken once.

    Raises RunError where the protocols differ, or two rows of one name do.
    """
    first = parts[0]
    rows: dict[str, Row] = {}
    for part in parts:
        check_protocol(first.protocol, part.protocol)
        for row in part.rows:
            if row.metrics != rows.setdefault(row.model, row).metrics:
                raise RunError(f"two rows are named {row.model!r} and differ: compare them from their runs")
    references = {part.reference for part in parts}
    return Comparison(first.seen, first.data, references.pop() if len(references) == 1 else None, list(rows.values()))


def check_protocol(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises RunError where two results are not under one protocol. Both: name, seen, data."""
    names = (one["name"], other["name"])
    if one["seen"] != other["seen"]:
        raise RunError(
            f"{names[1]} has another rule for seen items than {names[0]} ({other['seen']} and {one['seen']}): compare runs "
            "of one protocol, or say --seen"
        )
    if one["data"] != other["data"]:
        prints = [run["data"]["fingerprint"][:12] for run in (other, one)]
        raise RunError(
            f"{names[1]} has other data than {names[0]} (fingerprints {prints[0]} and {prints[1]}): compare runs on the same"
        )
