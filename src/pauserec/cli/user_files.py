"""Histories in, recommendations out: the files of `pauserec recommend`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import polars as pl

from pauserec.config import Columns, DataConfig
from pauserec.data.dataset import REPORT
from pauserec.data.raw.chunks import Row
from pauserec.data.raw.clean import BadValueError, clean_id, respelt
from pauserec.data.raw.columns import clean_orders
from pauserec.data.raw.layouts import EventLayout, open_like_events
from pauserec.data.raw.moments import parse_times
from pauserec.data.raw.order import choose_order
from pauserec.data.raw.rows import Table
from pauserec.data.raw.times import decide
from pauserec.data.sequences import in_order
from pauserec.errors import DataError
from pauserec.records import Recommendations
from pauserec.runs.files import parquet, read_json, same_file, write_atomically
from pauserec.runs.folder import Run

COLUMNS = ("user_id", "item_id")


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
    for _, row in table.rows([*columns, layout.order, layout.timestamp]):
        try:
            if row.problem:
                raise BadValueError(row.problem)
            name, found = _events(row, data)
        except BadValueError as error:
            raise _bad(users, row.line, str(error)) from None
        names[name] = None
        rows += found
    if not names:
        raise DataError(f"--users {users} has no rows below its header: give one for each user or event")
    histories: dict[str, list[str]] = {name: [] for name in names}
    for named in _sorted(users, rows, layout, data, has_time=layout.timestamp in table.columns):
        histories[named.user] += named.items
    return list(histories), list(histories.values())


class _Row(NamedTuple):
    """Items of a user that stand at one place: of a row, or one of a list that has a list of times or orders beside it."""

    user: str
    items: list[str]
    line: int
    order: Any
    time: Any


def _events(row: Row, data: DataConfig) -> tuple[str, list[_Row]]:
    """The user of a row, and what it names. Raises BadValueError."""
    name = _id(row.values[0], data)
    _, items, order, moment = row.values
    if not isinstance(items, list):
        return name, [_Row(name, [_id(items, data)], row.line, order, moment)] if _given(items) else []
    beside = {what: given for what, given in (("orders", order), ("times", moment)) if isinstance(given, list)}
    for what, given in beside.items():
        if len(given) != len(items):
            raise BadValueError(f"{len(items)} items beside {len(given)} {what}")
    if not beside:
        chosen = [_id(item, data) for item in items if _given(item)]
        return name, [_Row(name, chosen, row.line, order, moment)] if chosen else []
    orders, moments = (given if isinstance(given, list) else [given] * len(items) for given in (order, moment))
    return name, [
        _Row(name, [_id(item, data)], row.line, one, other)
        for item, one, other in zip(items, orders, moments, strict=True)
        if _given(item)
    ]


def _id(value: Any, data: DataConfig) -> str:
    text = clean_id(value, data.missing_words)[0]
    return str(respelt(pl.Series([text]), data.ids)[0]) if data.ids else text


def _sorted(users: Path, rows: list[_Row], layout: EventLayout, data: DataConfig, has_time: bool) -> Iterator[_Row]:
    """The rows in the order in which a run takes events; a list has its first item's place. Raises DataError."""
    missing = data.missing_words
    orders = clean_orders([row.order for row in rows], len(rows), missing)
    parsed = parse_times([row.time for row in rows], len(rows), missing, data.time.format)
    times, _ = decide(parsed, data.time, relative=False, single=False)
    events = pl.DataFrame(
        {
            "user_id": pl.Series([row.user for row in rows], dtype=pl.String),
            "item_id": pl.Series([row.items[0] for row in rows], dtype=pl.String),
            "order": orders.value,
            "order_problem": orders.problem,
            "line": pl.Series([row.line for row in rows], dtype=pl.Int64),
            "row": pl.Series(range(len(rows)), dtype=pl.Int64),
        }
    ).hstack(times)
    chosen = choose_order(layout, events, has_time=has_time)
    chosen.say(users, layout)
    if chosen.by == "order":
        none = pl.when(pl.col("order").is_null()).then(pl.lit("missing order"))
        events = events.with_columns(pl.coalesce("order_problem", none).alias("problem"), pl.col("order").alias("time"))
    elif chosen.by == "timestamp":
        events = events.with_columns(pl.col("time_problem").alias("problem"))
    else:
        events = events.with_columns(pl.lit(None, dtype=pl.String).alias("problem"), pl.col("line").alias("time"))
    for line, problem in events.filter(pl.col("problem").is_not_null()).select("line", "problem").iter_rows():
        raise _bad(users, line, problem)
    for place in in_order(events, data.ties)["row"].to_list():
        yield rows[place]


def _bad(users: Path, line: int, problem: str) -> DataError:
    return DataError(f"--users {users}, line {line}: {problem}; mend or remove the line")


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
