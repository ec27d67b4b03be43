"""Histories in, recommendations out: the files of `pauserec recommend`."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson
import polars as pl

from pauserec.config import Columns, DataConfig
from pauserec.data.dataset import REPORT
from pauserec.data.raw.clean import BadValueError, clean_id, clean_order, clean_time
from pauserec.data.raw.layouts import EventLayout, open_like_events
from pauserec.data.raw.order import choose_order
from pauserec.data.raw.rows import Table
from pauserec.data.sequences import in_order, times
from pauserec.errors import DataError
from pauserec.records import Recommendations
from pauserec.runs.files import parquet, read_json, same_file, write_atomically
from pauserec.runs.folder import Run

COLUMNS = ("user_id", "item_id")
Value = TypeVar("Value")


def read(history: str | None, users: Path | None, data: DataConfig | None = None) -> tuple[list[str], list[list[str]]]:
    """Names and histories from `--history ID,ID` or a file with the columns user_id and item_id.

    data: how the run read its own logs. Their layout and column names do too. By the same rules as in a run, histories are
    sorted by the order column or by the timestamp, and ties are broken; a file with neither is in order itself. The items
    of a list stay together.
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
    names: dict[str, None] = {}
    rows: list[_Row] = []
    for row in table.rows([*columns, layout.order, layout.timestamp]):
        try:
            if row.problem:
                raise BadValueError(row.problem)
            name = clean_id(row.values[0])[0]
            items = row.values[1] if isinstance(row.values[1], list) else [row.values[1]]
            chosen = [clean_id(item)[0] for item in items if _given(item)]
        except BadValueError as error:
            raise _bad(users, row.line, str(error)) from None
        names[name] = None
        if chosen:
            order, moment = _value(clean_order, row.values[2]), _value(_time, row.values[3])
            rows.append(_Row(name, chosen, row.line, *order, *moment))
    histories: dict[str, list[str]] = {name: [] for name in names}
    for named in _sorted(users, rows, layout, data, has_time=layout.timestamp in table.columns):
        histories[named.user] += named.items
    return list(histories), list(histories.values())


class _Row(NamedTuple):
    """A row that names items, as it was read: what is wrong with its order or time ("" if nothing) may not matter."""

    user: str
    items: list[str]
    line: int
    order: int | float | None
    order_problem: str
    time: int | None
    time_problem: str


def _sorted(users: Path, rows: list[_Row], layout: EventLayout, data: DataConfig, has_time: bool) -> Iterator[_Row]:
    """The rows in the order in which a run takes events; a list has its first item's place. Raises DataError."""
    columns = list(zip(*rows, strict=True)) or [()] * len(_Row._fields)
    names, items, lines, orders, order_problems, moments, time_problems = columns
    first = [chosen[0] for chosen in items]
    chosen = choose_order(layout, names, first, orders, order_problems, moments, has_time=has_time)
    chosen.say(users, layout)
    key: Sequence[int | float | None] = lines
    problems = [""] * len(rows)
    if chosen.by == "order":
        key, problems = orders, [row.order_problem or "missing order" * (row.order is None) for row in rows]
    elif chosen.by == "timestamp":
        key, problems = moments, list(time_problems)
    for row, problem in zip(rows, problems, strict=True):
        if problem:
            raise _bad(users, row.line, problem)
    events = pl.DataFrame(
        {
            "user_id": pl.Series(names, dtype=pl.String),
            "item_id": pl.Series(first, dtype=pl.String),
            "time": times(key),
            "line": pl.Series(lines, dtype=pl.Int64),
            "row": pl.Series(range(len(rows)), dtype=pl.Int64),
        }
    )
    for place in in_order(events, data.ties)["row"].to_list():
        yield rows[place]


def _bad(users: Path, line: int, problem: str) -> DataError:
    return DataError(f"--users {users}, line {line}: {problem}; mend or remove the line")


def _value(clean: Callable[[Any], Value], value: Any) -> tuple[Value | None, str]:
    """A cleaned value, and what is wrong with it ("" if nothing)."""
    try:
        return clean(value), ""
    except BadValueError as error:
        return None, str(error)


def _time(value: Any) -> int:
    return clean_time(value, time.time_ns())[0]


def data_as_read(run: Run) -> DataConfig:
    """How the run read its logs. An order column that it chose is named: some rows alone may not show what it is."""
    data = run.recipe.data
    chosen = read_json(run.path / "dataset" / REPORT).get("ordered_by") == "order"
    if not chosen or data.columns.order != Columns().order:
        return data
    return data.model_copy(update={"columns": data.columns.model_copy(update={"order": "order"})})


def _open(users: Path, data: DataConfig) -> tuple[Table, EventLayout, list[str]]:
    """The file, the layout of the run's own logs, and the columns of user and item: theirs, or the usual ones."""
    table, layout = open_like_events(users, data)
    names = zip((layout.user, layout.item), COLUMNS, strict=True)
    return table, layout, [own if own in table.columns else usual for own, usual in names]


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
