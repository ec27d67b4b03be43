"""What becomes of a raw row: the counts, and the rows that were left out with their line and reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pauserec.data.raw.lines import read_blocks
from pauserec.data.raw.parquet_rows import shown
from pauserec.data.raw.rows import Table
from pauserec.runs.files import write_atomically

PART = 2**40
"""Lines that a part of a folder is counted as, so that the lines of later parts stand after its own."""
RAW_CHARS = 500
"""Characters of a row's text that the quarantine file shows."""
_SCHEMA = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "raw": pl.String}
DUPLICATES = frozenset({"duplicate event", "duplicate item"})
"""Reasons that take nothing away: the row's content is kept elsewhere."""


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

    @property
    def lost(self) -> int:
        """Rows left out that were no duplicates."""
        return self.quarantined - sum(self.reasons[reason] for reason in DUPLICATES)


@dataclass(frozen=True)
class Quarantined:
    """A row that was left out: file name, line number (row number in Parquet), class, and the start of its text."""

    file: str
    line: int
    reason: str
    raw: str


def rejected(table: Table, wanted: Sequence[str | None], bad: pl.DataFrame) -> pl.DataFrame:
    """The quarantine's record of rows: file, line, reason, raw. Their text is read again.

    bad: columns line (of the n-th part n * PART later) and reason.
    """
    found = [pl.DataFrame(schema=_SCHEMA)]
    for number, part in enumerate(table.parts or (table,)):
        own = bad.filter((pl.col("line") // PART) == number)
        if own.is_empty():
            continue
        own = own.with_columns(pl.col("line") % PART, pl.col("reason").cast(pl.String)).sort("line")
        raw = _texts(part, wanted, own["line"])
        texts = raw.str.slice(0, RAW_CHARS)
        found.append(own.select(pl.lit(part.path.name).alias("file"), "line", "reason", texts.alias("raw")))
    return pl.concat(found)


def _texts(part: Table, wanted: Sequence[str | None], lines: pl.Series) -> pl.Series:
    """The text of rows by their lines, which are sorted."""
    if part.kind == "parquet":
        names = [name if name in part.columns else None for name in wanted]
        return pl.Series(shown(part.path, names, lines.to_list()), dtype=pl.String)
    found = []
    for block in read_blocks(part.path, part.encoding):
        own = lines.filter((lines >= block.first) & (lines < block.first + len(block.text)))
        if len(own):
            found.append(block.text.gather(own - block.first))
    return pl.concat(found)


def as_rows(left_out: pl.DataFrame) -> list[Quarantined]:
    """The quarantine's records as objects."""
    return [Quarantined(*row) for row in left_out.select(list(_SCHEMA)).iter_rows()]


def write_quarantine(path: Path, left_out: pl.DataFrame) -> None:
    """Write one JSON object (file, line, reason, raw) per line, sorted by file and line."""
    ordered = left_out.select(list(_SCHEMA)).sort("file", "line", maintain_order=True)
    write_atomically(path, b"".join(orjson.dumps(row) + b"\n" for row in ordered.iter_rows(named=True)))
