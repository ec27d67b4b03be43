"""Parquet -> rows in columns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from pauserec.data.raw.chunks import Chunk
from pauserec.errors import DataError
from pauserec.runs.files import read_table

OUTSIDE = "not in years 1 to 9999"
_AT_ONCE = 1_000_000
"""Rows of a chunk."""


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of the columns. Raises DataError."""
    try:
        with path.open("rb") as file:
            return tuple(pl.read_parquet_schema(file))
    except (PolarsError, PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({_first_line(error)}): write it again") from None


def parquet_chunks(path: Path, wanted: Sequence[str | None]) -> Iterator[Chunk]:
    """All rows, with the `wanted` columns as they are; `line` is the row's number from 1. Raises DataError."""
    names = list(dict.fromkeys(name for name in wanted if name is not None))
    try:
        frame = read_table(path, names)
        for start in range(0, frame.height, _AT_ONCE):
            part = frame.slice(start, _AT_ONCE)
            line = pl.int_range(start + 1, start + 1 + part.height, dtype=pl.Int64, eager=True)
            raw = pl.repeat("", part.height, dtype=pl.String, eager=True)
            yield Chunk.of(line, raw, [None if name is None else _values(part[name]) for name in wanted])
    except (PolarsError, PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({_first_line(error)}): write it again") from None


def shown(path: Path, wanted: Sequence[str | None], lines: Sequence[int]) -> list[str]:
    """Rows as text, by their numbers. The whole file's text would be many times its size."""
    names = list(dict.fromkeys(name for name in wanted if name is not None))
    frame = read_table(path, names)[[line - 1 for line in lines]]
    columns = [list(_values(frame[name])) for name in names]
    return [repr(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)] or [""] * len(lines)


def _values(column: pl.Series) -> pl.Series | list[Any]:
    """Text, numbers and times as they are; of anything else Python's values. Times outside the calendar become text."""
    dtype = column.dtype
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        within = column.dt.year().is_between(1, 9999).fill_null(value=False)  # polars knows no year far out
        outside = ~within & column.is_not_null()
        if outside.any():
            column = pl.select(pl.when(outside).then(None).otherwise(column)).to_series()
            odd = set(outside.arg_true().to_list())
            return [OUTSIDE if place in odd else value for place, value in enumerate(column.to_list())]
        return column
    if isinstance(dtype, pl.Duration) or dtype in (pl.String, pl.Float32, pl.Float64) or dtype.is_integer():
        return column
    if dtype in (pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    return column.to_list()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
