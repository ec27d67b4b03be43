"""Histories in, recommendations out: the files of `pauserec recommend`."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pauserec.config import DataConfig
from pauserec.data.raw.clean import BadValueError, clean_id, clean_order, clean_time
from pauserec.data.raw.layouts import EventLayout, open_like_events
from pauserec.data.raw.rows import Row, Table
from pauserec.data.sequences import in_order, times
from pauserec.errors import DataError
from pauserec.records import Recommendations
from pauserec.runs.files import parquet, same_file, write_atomically

COLUMNS = ("user_id", "item_id")


def read(history: str | None, users: Path | None, data: DataConfig | None = None) -> tuple[list[str], list[list[str]]]:
    """Names and histories from `--history ID,ID` or a file with the columns user_id and item_id.

    data: how the run read its own logs. Their layout and column names do too, a history is sorted by the order column if
    any row has an order, else by the timestamp if the file has one, else as in the file. Ties are broken as the run broke
    its own; the items of a list stay together.
    In the file item_id is one event per row or a list. Ids are read as `prepare` reads them. Raises DataError.
    """
    if (history is None) == (users is None):
        raise DataError("give either --history ID,ID,... or --users FILE")
    if users is None:
        return ["history"], [ids(history or "")]
    data = data or DataConfig()
    table, layout, columns = _open(users, data)
    missing = [name for name in columns if name not in table.columns]
    if missing and data.delimiter is not None:  # the run's own logs have it; this file may have another
        table, layout, columns = _open(users, data.model_copy(update={"delimiter": None}))
        missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(f"--users {users} lacks {', '.join(missing)}: it has {', '.join(table.columns)}")
    ordered = layout.order in table.columns and any(_orders(row) for row in table.rows([layout.order]))
    moment = layout.order if ordered else layout.timestamp if layout.timestamp in table.columns else None
    names: dict[str, None] = {}
    rows: list[tuple[str, list[str], int | float, int]] = []
    for row in table.rows([*columns, moment]):
        try:
            if row.problem:
                raise BadValueError(row.problem)
            name = clean_id(row.values[0])[0]
            names[name] = None
            items = row.values[1] if isinstance(row.values[1], list) else [row.values[1]]
            chosen = [clean_id(item)[0] for item in items if _given(item)]
            if chosen:
                key = row.line if moment is None else _moment(row.values[2], ordered)
                rows.append((name, chosen, key, row.line))
        except BadValueError as error:
            raise DataError(f"--users {users}, line {row.line}: {error}; mend or remove the line") from None
    histories: dict[str, list[str]] = {name: [] for name in names}
    for name, chosen in _sorted(rows, data):
        histories[name] += chosen
    return list(histories), list(histories.values())


def _sorted(rows: list[tuple[str, list[str], int | float, int]], data: DataConfig) -> Iterator[tuple[str, list[str]]]:
    """User and items of every row, in the order in which a run takes events. A list has its first item's place."""
    events = {
        "user_id": pl.Series([name for name, *_ in rows], dtype=pl.String),
        "item_id": pl.Series([items[0] for _, items, *_ in rows], dtype=pl.String),
        "time": times([key for _, _, key, _ in rows]),
        "line": pl.Series([line for *_, line in rows], dtype=pl.Int64),
        "row": pl.Series(range(len(rows)), dtype=pl.Int64),
    }
    for place in in_order(pl.DataFrame(events), data.ties)["row"].to_list():
        yield rows[place][:2]


def _open(users: Path, data: DataConfig) -> tuple[Table, EventLayout, list[str]]:
    """The file, the layout of the run's own logs, and the columns of user and item: theirs, or the usual ones."""
    table, layout = open_like_events(users, data)
    names = zip((layout.user, layout.item), COLUMNS, strict=True)
    return table, layout, [own if own in table.columns else usual for own, usual in names]


def _orders(row: Row) -> bool:
    """Whether the one value of a row is an order, or is meant as one."""
    try:
        return bool(row.values) and clean_order(row.values[0]) is not None
    except BadValueError:
        return True


def _moment(value: Any, ordered: bool) -> int | float:
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
