"""What becomes of a raw row: the counts, and the rows that were left out with their line and reason."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pauserec.data.raw.rows import Row
from pauserec.runs.files import write_atomically

RAW_CHARS = 500
"""Characters of a row's text that the quarantine file shows."""


@dataclass
class Counts:
    """What became of a file's rows: accepted + repaired + quarantined = read."""

    read: int = 0
    accepted: int = 0
    repaired: int = 0
    quarantined: int = 0
    repairs: Counter[str] = field(default_factory=Counter)
    """Repairs by class; a row may need several."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Quarantined rows by class; one class each."""
    notes: Counter[str] = field(default_factory=Counter)
    """Accepted as they are, but worth knowing: empty titles, units of time."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, classes sorted by name."""
        return {
            name: dict(sorted(value.items())) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Quarantined:
    """A row that was left out: file name, line number (row number in Parquet), class, and the start of its text."""

    file: str
    line: int
    reason: str
    raw: str


def quarantined(path: Path, row: Row, reason: str) -> Quarantined:
    """The quarantine's record of one row."""
    raw = row.raw[:RAW_CHARS].encode("utf-8", "backslashreplace").decode()
    return Quarantined(path.name, row.line, reason, raw)


def write_quarantine(path: Path, rows: Iterable[Quarantined]) -> None:
    """Write one JSON object (file, line, reason, raw) per line, sorted by file and line."""
    ordered = sorted(rows, key=lambda row: (row.file, row.line))
    write_atomically(path, b"".join(orjson.dumps(asdict(row)) + b"\n" for row in ordered))
