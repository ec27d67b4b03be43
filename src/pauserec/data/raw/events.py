"""Raw logs -> interactions, items and quarantine.

Every row read ends as accepted, repaired or quarantined, and the result does not depend on the order of the rows
(unless `data.ties = "file"` asks for it).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pauserec.config import DataConfig
from pauserec.data.raw.clean import BadValueError, clean_id, clean_order, clean_time
from pauserec.data.raw.items import read_items
from pauserec.data.raw.layouts import EventLayout, find_files, open_events, open_items
from pauserec.data.raw.order import Order, OrderedBy, choose_order
from pauserec.data.raw.quarantine import Counts, Quarantined, quarantined
from pauserec.data.raw.rows import Table
from pauserec.data.sequences import times
from pauserec.records import Item

DUPLICATE_EVENT, UNKNOWN_ITEM = "duplicate event", "unknown item"
TIME_IGNORED = "timestamp left out (the order column counts)"
DAY = 86_400 * 10**9
"""Nanoseconds."""
FIRST_DAY = 7305
"""1990-01-01, in days since 1970: what reads as earlier is a position or a date in digits, right in its order alone."""


@dataclass(frozen=True)
class Raw:
    """Cleaned raw data.

    events: columns user_id, item_id (text), time (int or float; nanoseconds, a position, or the line), line (int64).
    items: by id. without_text: true when there was no items file.
    """

    events: pl.DataFrame
    items: dict[str, Item]
    order: Order
    counts: Counts
    item_counts: Counts
    quarantine: list[Quarantined]
    without_text: bool

    @property
    def ordered_by(self) -> OrderedBy:
        """What `time` is."""
        return self.order.by


def read_raw(config: DataConfig) -> Raw:
    """Read and clean both files. Raises DataError if one cannot be used, AssetError for an unknown `data.source`."""
    events_path, items_path = find_files(config)
    events_table, event_layout = open_events(events_path, config)
    quarantine: list[Quarantined] = []
    items: dict[str, Item] = {}
    item_counts = Counts()
    if items_path is not None:
        items_table, item_layout = open_items(items_path, config)
        items = read_items(items_table, item_layout, config, item_counts, quarantine)
    counts = Counts()
    known = None if items_path is None else items
    events, order = _read_events(events_table, event_layout, known, counts, quarantine)
    order.say(events_path, event_layout)
    if items_path is None:
        items = {item_id: Item(item_id) for item_id in events["item_id"].unique().to_list()}
    return Raw(events, items, order, counts, item_counts, quarantine, items_path is None)


@dataclass
class _Events:
    """Columns of the interactions as they are read. A bad time waits: an order column may outweigh it."""

    user: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    line: list[int] = field(default_factory=list)
    repair: list[str] = field(default_factory=list)
    order: list[int | float | None] = field(default_factory=list)
    order_problem: list[str] = field(default_factory=list)
    time: list[int | None] = field(default_factory=list)
    time_problem: list[str] = field(default_factory=list)
    unit: list[str] = field(default_factory=list)


def _read_events(
    table: Table, layout: EventLayout, known: Iterable[str] | None, counts: Counts, quarantine: list[Quarantined]
) -> tuple[pl.DataFrame, Order]:
    columns = [layout.user, layout.item, layout.timestamp, layout.order]
    read = _collect(table, columns, counts, quarantine)
    has_time = layout.timestamp in table.columns
    order = choose_order(layout, read.user, read.item, read.order, read.order_problem, read.time, has_time=has_time)
    key, problems = _order_key(read, order.by)
    ignored = [order.by == "order" and bool(problem) for problem in read.time_problem]
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(read.user, dtype=pl.String),
            "item_id": pl.Series(read.item, dtype=pl.String),
            "time": times(key),
            "line": pl.Series(read.line, dtype=pl.Int64),
            "day": pl.Series(
                [None if t is None or t < FIRST_DAY * DAY else t // DAY for t in read.time], dtype=pl.Int64
            ),
            "reason": pl.Series(problems, dtype=pl.String),
            "repair": pl.Series(read.repair, dtype=pl.String),
            "ignored": pl.Series(ignored, dtype=pl.Boolean),
            "unit": pl.Series(read.unit, dtype=pl.String),
        }
    )
    frame = _mark(frame, known, same_time=order.by != "file")
    bad = frame.filter(pl.col("reason") != "")
    if bad.height:
        reasons = dict(zip(bad["line"].to_list(), bad["reason"].to_list(), strict=True))
        # Their text was not kept in memory: read it again.
        late = (row for row in table.rows(columns) if row.line in reasons)
        quarantine.extend(quarantined(table.path, row, reasons[row.line]) for row in late)
        counts.reasons.update(reasons.values())
    good = frame.filter(pl.col("reason") == "")
    _count(good, counts, units=order.by == "timestamp")
    return good.select("user_id", "item_id", "time", "line", "day"), order


def _order_key(read: _Events, by: OrderedBy) -> tuple[list[int | float | None], list[str]]:
    """The value of each event that they are sorted by, and what is wrong with it ("" if nothing)."""
    if by == "order":
        pairs = zip(read.order, read.order_problem, strict=True)
        return read.order, [problem or ("missing order" if value is None else "") for value, problem in pairs]
    if by == "timestamp":
        return list(read.time), read.time_problem
    return list(read.line), [""] * len(read.line)


def _collect(table: Table, columns: list[str | None], counts: Counts, quarantine: list[Quarantined]) -> _Events:
    read = _Events()
    now = time.time_ns()
    seen: dict[str, tuple[str, str]] = {}  # text ids repeat; numbers stay out, as 1 == 1.0 == True
    for row in table.rows(columns):
        counts.read += 1
        try:
            if row.problem:
                raise BadValueError(row.problem)
            user, user_repair = _id(row.values[0], "user", seen)
            item, item_repair = _id(row.values[1], "item", seen)
        except BadValueError as bad:
            quarantine.append(quarantined(table.path, row, str(bad)))
            counts.reasons[str(bad)] += 1
            continue
        read.user.append(user)
        read.item.append(item)
        read.line.append(row.line)
        read.repair.append(_joined(row.repair, user_repair, item_repair))
        moment, order, time_problem, order_problem, unit = None, None, "", "", ""
        try:
            moment, unit = clean_time(row.values[2], now)
        except BadValueError as bad:
            time_problem = str(bad) if columns[2] in table.columns else ""
        try:
            order = clean_order(row.values[3])
        except BadValueError as bad:
            order_problem = str(bad)
        read.time.append(moment)
        read.time_problem.append(time_problem)
        read.unit.append(unit)
        read.order.append(order)
        read.order_problem.append(order_problem)
    return read


def _id(value: Any, kind: str, seen: dict[str, tuple[str, str]]) -> tuple[str, str]:
    if isinstance(value, str) and value in seen:
        return seen[value]
    try:
        result = clean_id(value)
    except BadValueError as bad:
        raise BadValueError(f"{kind}: {bad}") from None
    if isinstance(value, str):
        seen[value] = result
    return result


def _joined(*repairs: str) -> str:
    return "\n".join(dict.fromkeys(repair for repair in repairs if repair))


def _mark(frame: pl.DataFrame, known: Iterable[str] | None, same_time: bool) -> pl.DataFrame:
    """Fill `reason` for unknown items, then for all but one of events equal in user, item and time."""
    if known is not None:
        unknown = ~pl.col("item_id").is_in(pl.Series(list(known), dtype=pl.String).implode())
        frame = frame.with_columns(
            pl.when((pl.col("reason") == "") & unknown).then(pl.lit(UNKNOWN_ITEM)).otherwise("reason").alias("reason")
        )
    if not same_time:
        return frame
    # The row that needed no repair is the one kept, wherever it stands. Rows already marked must not shade good ones,
    # so `reason` takes part in the comparison.
    frame = frame.sort("repair", "ignored", "day", "unit", "line")
    again = ~pl.struct("user_id", "item_id", "time", "reason").is_first_distinct()
    return frame.with_columns(
        pl.when((pl.col("reason") == "") & again).then(pl.lit(DUPLICATE_EVENT)).otherwise("reason").alias("reason")
    ).sort("line")


def _count(good: pl.DataFrame, counts: Counts, units: bool) -> None:
    repaired = good.filter((pl.col("repair") != "") | pl.col("ignored"))
    for repairs in repaired["repair"].to_list():
        counts.repairs.update(repair for repair in repairs.split("\n") if repair)
    if good["ignored"].any():
        counts.repairs[TIME_IGNORED] = int(good["ignored"].sum())
    if units:
        for unit, number in good["unit"].value_counts().iter_rows():
            counts.notes[f"timestamps in {unit}"] = number
    counts.repaired = repaired.height
    counts.accepted = good.height - repaired.height
    counts.quarantined = counts.read - good.height
