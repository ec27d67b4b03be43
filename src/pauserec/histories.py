"""Histories in, recommendations out: the files of `pauserec recommend`."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pauserec.config import DataConfig
from pauserec.data.clean import BadValueError, clean_id, clean_order, clean_time
from pauserec.data.tables import open_table
from pauserec.errors import DataError
from pauserec.files import parquet, same_file, write_atomically
from pauserec.records import Recommendations

COLUMNS = ("user_id", "item_id")


def read(history: str | None, users: Path | None, data: DataConfig | None = None) -> tuple[list[str], list[list[str]]]:
    """Names and histories from `--history ID,ID` or a file with the columns user_id and item_id.

    data: how the run read its own logs. Its column names do too, a history is sorted by its order column or else its
    timestamp where the file has one (ties as in the file), and repeats are left out if it left them out.
    In the file item_id is one event per row or a list. Ids are read as `prepare` reads them. Raises DataError.
    """
    if (history is None) == (users is None):
        raise DataError("give either --history ID,ID,... or --users FILE")
    if users is None:
        return ["history"], [ids(history or "")]
    data = data or DataConfig()
    names = data.columns
    table = open_table(users, frozenset(COLUMNS) | set(names.model_dump().values()) - {None})
    columns = [
        own if own in table.columns else usual for own, usual in zip((names.user, names.item), COLUMNS, strict=True)
    ]
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"--users {users} lacks {', '.join(missing)}: it has {', '.join(table.columns)}")
    moment = next((name for name in (names.order, names.timestamp) if name in table.columns), None)
    events: dict[str, list[tuple[float, str]]] = {}
    for row in table.rows([*columns, *([moment] if moment else [])]):
        try:
            if row.problem:
                raise BadValueError(row.problem)
            of_user = events.setdefault(clean_id(row.values[0])[0], [])
            items = row.values[1] if isinstance(row.values[1], list) else [row.values[1]]
            chosen = [clean_id(item)[0] for item in items if _given(item)]
            key = _moment(row.values[2], ordered=moment == names.order) if moment and chosen else 0
            of_user += [(key, item) for item in chosen]
        except BadValueError as error:
            raise DataError(f"--users {users}, line {row.line}: {error}; mend or remove the line") from None
    histories = [[item for _, item in sorted(of_user, key=lambda event: event[0])] for of_user in events.values()]
    if data.repeats == "first":
        histories = [list(dict.fromkeys(items)) for items in histories]
    return list(events), histories


def _moment(value: Any, *, ordered: bool) -> float:
    """What an event is sorted by. Raises BadValueError."""
    if not ordered:
        return clean_time(value, time.time_ns())[0]
    order = clean_order(value)
    if order is None:
        raise BadValueError("missing order")
    return order


def _given(item: Any) -> bool:
    """Whether a row names an item: a user without any still gets an answer."""
    return item is not None and item != ""


def ids(text: str) -> list[str]:
    """The ids of a comma-separated list."""
    text = text.encode(errors="backslashreplace").decode()  # a terminal may hand over bytes that are no text
    return [item.strip() for item in text.split(",") if item.strip()]


def check_output(format_: str, output: Path | None, users: Path | None = None) -> None:
    """Raises DataError, before anything is computed, where the answers could not be written as asked."""
    if format_ == "parquet" and output is None and sys.stdout.isatty():
        raise DataError("--format parquet is not for a terminal: give --output FILE, or send it on with > or |")
    if output is not None and format_ == "table":
        raise DataError("--output needs --format json or parquet: a table is for the terminal")
    if output is not None and users is not None and same_file(users, output):
        raise DataError(f"--output {output} is the file of --users: name another one")
    if output is not None and output.is_dir():
        raise DataError(f"--output {output} is a folder: name a file")
    if output is not None and not output.absolute().parent.is_dir():
        raise DataError(f"--output {output}: there is no folder {output.parent}: make it first")


def write(names: Sequence[str], found: Sequence[Recommendations], format_: str, output: Path | None) -> None:
    """One row per user, as JSON lines or a Parquet file, to `output` or stdout."""
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
        schema: dict[str, Any] = {
            "user_id": pl.String,
            "items": pl.List(pl.String),
            "scores": pl.List(pl.Float64),
            "unknown": pl.List(pl.String),
            "fallback": pl.String,
            "fewer_than_asked": pl.Boolean,
        }
        content = parquet(pl.DataFrame(rows, schema=schema))
    else:
        content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        write_atomically(output, content)
