"""Histories in, recommendations out: the files of `pauserec recommend`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pauserec.data.clean import BadValueError, clean_id
from pauserec.data.tables import open_table
from pauserec.errors import DataError
from pauserec.files import write_atomically, write_table
from pauserec.records import Recommendations

COLUMNS = ("user_id", "item_id")


def read(history: str | None, users: Path | None) -> tuple[list[str], list[list[str]]]:
    """Names and histories from `--history ID,ID` or a file with the columns user_id and item_id.

    In the file item_id is one event per row, in time order, or a list. Ids are read as `prepare` reads them. Raises DataError.
    """
    if (history is None) == (users is None):
        raise DataError("give either --history ID,ID,... or --users FILE")
    if users is None:
        return ["history"], [ids(history or "")]
    table = open_table(users, frozenset(COLUMNS))
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"--users {users} lacks {', '.join(missing)}: it has {', '.join(table.columns)}")
    found: dict[str, list[str]] = {}
    for row in table.rows(COLUMNS):
        try:
            if row.problem:
                raise BadValueError(row.problem)
            user, items = row.values
            history_of_user = found.setdefault(clean_id(user)[0], [])
            history_of_user += [
                clean_id(item)[0] for item in (items if isinstance(items, list) else [items]) if _given(item)
            ]
        except BadValueError as error:
            raise DataError(f"--users {users}, line {row.line}: {error}; mend or remove the line") from None
    return list(found), list(found.values())


def _given(item: Any) -> bool:
    """Whether a row names an item: a user without any still gets an answer."""
    return item is not None and item != ""


def ids(text: str) -> list[str]:
    """The ids of a comma-separated list."""
    text = text.encode(errors="backslashreplace").decode()  # a terminal may hand over bytes that are no text
    return [item.strip() for item in text.split(",") if item.strip()]


def check_output(format_: str, output: Path | None) -> None:
    """Raises DataError, before anything is computed, where the answers could not be written as asked."""
    if format_ == "parquet" and output is None:
        raise DataError("--format parquet needs --output FILE")
    if output is not None and format_ == "table":
        raise DataError("--output needs --format json or parquet: a table is for the terminal")
    if output is not None and output.is_dir():
        raise DataError(f"--output {output} is a folder: name a file")
    if output is not None and not output.absolute().parent.is_dir():
        raise DataError(f"--output {output}: there is no folder {output.parent}: make it first")


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
        write_table(output, pl.DataFrame(rows, schema=schema))
        return
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if output is None:
        sys.stdout.buffer.write(lines)
        sys.stdout.flush()
    else:
        write_atomically(output, lines)
