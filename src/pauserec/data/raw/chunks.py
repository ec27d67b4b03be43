"""Rows of a raw file in columns: what every format is read into."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

_BLANK = (
    *range(9, 14),
    *range(28, 33),
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
)
SPACES = "".join(map(chr, _BLANK))
"""What Python's str.strip takes for blank."""
NOT_DECODED = "line is not UTF-8"
NUL = "NUL removed"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line (row number in Parquet), the values of the wanted columns, or the problem that left none."""

    line: int
    raw: str
    values: Sequence[Any] = ()
    problem: str = ""
    repair: str = ""


@dataclass(frozen=True)
class Chunk:
    """Rows that follow one another.

    line: Int64. raw: their text. values: for each wanted column a Series of a plain type, a list of Python's values where
    they are mixed, or null where the file has no such column. problem: what left a row without values, null if nothing.
    repair: what was mended to read it, null if nothing.
    """

    line: pl.Series
    raw: pl.Series
    values: tuple[pl.Series | list[Any] | None, ...]
    problem: pl.Series
    repair: pl.Series

    @classmethod
    def of(
        cls,
        line: pl.Series,
        raw: pl.Series,
        values: Sequence[pl.Series | list[Any] | None],
        problem: Sequence[str | None] | None = None,
        repair: Sequence[str | None] | None = None,
    ) -> "Chunk":
        """Lists of text or of whole numbers become Series; without problems or repairs there is a column of nulls."""
        nothing = pl.Series([None] * 0, dtype=pl.String).extend_constant(None, len(line))
        texts = [nothing if each is None else pl.Series(each, dtype=pl.String) for each in (problem, repair)]
        return cls(line, raw, tuple(map(_plain, values)), *texts)

    @classmethod
    def empty(cls, columns: int) -> "Chunk":
        """No rows."""
        return cls.of(pl.Series(dtype=pl.Int64), pl.Series(dtype=pl.String), [None] * columns)

    def __len__(self) -> int:
        return len(self.line)

    def rows(self) -> Iterator[Row]:
        """The same row by row."""
        columns = [_python(each, len(self)) for each in self.values]
        told = zip(self.line, self.raw, self.problem, self.repair, strict=True)
        for place, (line, raw, problem, repair) in enumerate(told):
            values = () if problem else tuple(column[place] for column in columns)
            yield Row(line, raw, values, problem or "", repair or "")


def placed(text: pl.Series, first: int) -> tuple[pl.Series, pl.Series]:
    """Lines that are not blank, and their numbers."""
    line = pl.int_range(first, first + len(text), dtype=pl.Int64, eager=True)
    filled = text.str.strip_chars(SPACES) != ""
    return (text, line) if filled.all() else (text.filter(filled), line.filter(filled))


def _python(values: pl.Series | list[Any] | None, size: int) -> list[Any]:
    if values is None:
        return [None] * size
    return values if isinstance(values, list) else values.to_list()


def _plain(values: pl.Series | list[Any] | None) -> pl.Series | list[Any] | None:
    if not isinstance(values, list):
        return values
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {str}:
        try:
            return pl.Series(values, dtype=pl.String)
        except (UnicodeEncodeError, pl.exceptions.PolarsError):  # a lone surrogate
            return values
    if kinds == {int}:
        try:
            return pl.Series(values, dtype=pl.Int64)
        except (OverflowError, TypeError, pl.exceptions.PolarsError):  # of more than 64 bits
            return values
    return values
