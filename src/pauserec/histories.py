"""Histories in, recommendations out: the files of `pauserec recommend`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pauserec.errors import DataError
from pauserec.records import Recommendations
from pauserec.run import write_atomically

READERS = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}


def read(history: str | None, users: Path | None) -> tuple[list[str], list[list[str]]]:
    """Names and histories from `--history ID,ID` or a file with the columns user_id and item_id.

    In the file item_id is one event per row, in time order, or a list. Raises DataError.
    """
    if (history is None) == (users is None):
        raise DataError("give either --history ID,ID,... or --users FILE")
    if users is None:
        return ["history"], [ids(history or "")]
    if users.suffix not in READERS:
        raise DataError(f"--users {users}: the file must end in {', '.join(READERS)}")
    try:
        options = {"infer_schema": False} if users.suffix == ".csv" else {}
        frame = READERS[users.suffix](users, **options)  # type: ignore[operator]
    except FileNotFoundError:
        raise DataError(f"--users {users}: no such file") from None
    except pl.exceptions.PolarsError as error:
        raise DataError(f"--users {users} cannot be read: {str(error).splitlines()[0]}") from None
    missing = {"user_id", "item_id"} - set(frame.columns)
    if missing:
        raise DataError(f"--users {users} lacks {', '.join(sorted(missing))}: it has {', '.join(frame.columns)}")
    if isinstance(frame.schema["item_id"], pl.List):
        frame = frame.explode("item_id", empty_as_null=True)
    frame = frame.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    grouped = frame.group_by("user_id", maintain_order=True).agg(pl.col("item_id").drop_nulls())
    return grouped["user_id"].to_list(), grouped["item_id"].to_list()


def ids(text: str) -> list[str]:
    """The ids of a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]


def write(names: Sequence[str], found: Sequence[Recommendations], format_: str, output: Path | None) -> None:
    """One row per user: JSON lines to `output` or stdout, or a Parquet file."""
    rows = [
        {
            "user_id": name,
            "items": [scored.item_id for scored in result.items],
            "scores": [scored.score for scored in result.items],
            "unknown": list(result.unknown),
            "fallback": result.fallback,
            "fewer_than_asked": result.fewer_than_asked,
        }
        for name, result in zip(names, found, strict=True)
    ]
    if format_ == "parquet":
        assert output is not None
        schema: dict[str, Any] = {
            "user_id": pl.String,
            "items": pl.List(pl.String),
            "scores": pl.List(pl.Float64),
            "unknown": pl.List(pl.String),
            "fallback": pl.String,
            "fewer_than_asked": pl.Boolean,
        }
        temporary = output.with_name(f".{output.name}.tmp")
        pl.DataFrame(rows, schema=schema).write_parquet(temporary)
        temporary.replace(output)
        return
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if output is None:
        sys.stdout.buffer.write(lines)
        sys.stdout.flush()
    else:
        write_atomically(output, lines)
