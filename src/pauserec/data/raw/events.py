"""Raw logs -> interactions, items and quarantine.

Every row read ends as accepted, repaired or quarantined, and the result does not depend on the order of the rows
(unless `data.ties = "file"` asks for it).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from pauserec.config import DataConfig
from pauserec.data.raw.chunks import Chunk
from pauserec.data.raw.columns import clean_ids, clean_orders, missing_words
from pauserec.data.raw.items import read_items
from pauserec.data.raw.layouts import EventLayout, find_files, open_events, open_items
from pauserec.data.raw.meeting import Meeting, meeting
from pauserec.data.raw.moments import parse_times
from pauserec.data.raw.order import Order, OrderedBy, choose_order
from pauserec.data.raw.quarantine import PART, Counts, Quarantined, as_rows, rejected
from pauserec.data.raw.rows import Table
from pauserec.data.raw.times import DAY, FIRST_DAY, Clock, decide
from pauserec.records import Item

DUPLICATE_EVENT, UNKNOWN_ITEM = "duplicate event", "unknown item"
TIME_IGNORED = "timestamp left out (the order column counts)"


@dataclass(frozen=True)
class Raw:
    """Cleaned raw data.

    events: columns user_id, item_id (text), time (int or float; nanoseconds, a position, or the line), line (int64; of the
    n-th part of a folder n * PART later), day (int64, null where it is unknown). items: by id. left_out: file, line, reason
    and raw of the quarantined rows. meeting: how the ids of the two files meet. without_text: there was no items file.
    """

    events: pl.DataFrame
    items: dict[str, Item]
    order: Order
    clock: Clock
    counts: Counts
    item_counts: Counts
    left_out: pl.DataFrame
    meeting: Meeting | None
    without_text: bool
    written: str
    """How the files are written, as a line."""

    @property
    def ordered_by(self) -> OrderedBy:
        """What `time` is."""
        return self.order.by

    @property
    def quarantine(self) -> list[Quarantined]:
        """The quarantined rows."""
        return as_rows(self.left_out)


def read_raw(config: DataConfig, earlier: Mapping[str, Item] | None = None) -> Raw:
    """Read and clean both files. Raises DataError if one cannot be used, AssetError for an unknown `data.source`.

    earlier: items that are known besides those of the items file.
    """
    events_path, items_path = find_files(config)
    events_table, event_layout = open_events(events_path, config)
    items: dict[str, Item] = {}
    counts, item_counts, written = Counts(), Counts(), events_table.line()
    left_out: list[pl.DataFrame] = []
    if items_path is not None:
        items_table, item_layout = open_items(items_path, config)
        written += f"; {items_table.line()}"
        items = {**(earlier or {}), **read_items(items_table, item_layout, config, item_counts, left_out)}
    read = _read(events_table, event_layout, config, counts)
    unread = read.filter(pl.col("reason").is_not_null()).select("line", "reason")
    if unread.height:
        read = read.filter(pl.col("reason").is_null())
    events, clock, order = _timed(read, event_layout, config, has_time=event_layout.timestamp in events_table.columns)
    del read  # at ten million events it is a gigabyte
    order.say(events_path, event_layout)
    known = None if items_path is None else pl.Series(list(items), dtype=pl.String)
    events = _mark(events, known, same_time=order.by != "file")
    found = None
    if known is not None and items_path is not None:
        found = meeting(events.filter(pl.col("reason") == UNKNOWN_ITEM)["item_id"], known, events_path, items_path)
    good = events.filter(pl.col("reason").is_null())
    bad = pl.concat(
        [
            each.filter(pl.col("reason").is_not_null()).select("line", pl.col("reason").cast(pl.String))
            for each in (unread, events)
        ]
    ).sort("line")
    counts.reasons.update(dict(bad["reason"].value_counts().iter_rows()))
    left_out.append(rejected(events_table, _columns(event_layout), bad))
    _count(good, counts, clock, units=order.by == "timestamp")
    if items_path is None:
        items = {item_id: Item(item_id) for item_id in good["item_id"].unique().to_list()} | dict(earlier or {})
    kept = good.select("user_id", "item_id", "time", "line", "day")
    return Raw(kept, items, order, clock, counts, item_counts, pl.concat(left_out), found, items_path is None, written)


def _columns(layout: EventLayout) -> list[str | None]:
    return [layout.user, layout.item, layout.timestamp, layout.order]


def _read(table: Table, layout: EventLayout, config: DataConfig, counts: Counts) -> pl.DataFrame:
    """All rows, their ids cleaned and their times and orders parsed."""
    frames = [_parsed(Chunk.empty(4), 0, config, counts)]
    for number, _, chunk in table.chunks(_columns(layout)):
        frames.append(_parsed(chunk, number, config, counts))
    counts.read = sum(frame.height for frame in frames)
    return pl.concat(frames, how="vertical_relaxed", rechunk=False)


def _parsed(chunk: Chunk, part: int, config: DataConfig, counts: Counts) -> pl.DataFrame:
    missing, size = config.missing_words, len(chunk)
    user, item = (clean_ids(values, size, missing, config.ids) for values in chunk.values[:2])
    words: Counter[str] = Counter()
    for values in chunk.values[:3]:
        words += missing_words(values, missing)
    for word, number in words.items():
        if word:
            counts.notes[f'no value, written "{word}"'] += number
    order = clean_orders(chunk.values[3], size, missing)
    when = chunk.values[2]
    kinds = {pl.Duration: "relative", pl.Float32: "single"}
    kind = next((name for dtype, name in kinds.items() if isinstance(when, pl.Series) and when.dtype == dtype), "")
    frame = pl.DataFrame(
        [
            (chunk.line + part * PART).alias("line"),
            user.value.alias("user_id"),
            item.value.alias("item_id"),
            chunk.problem.alias("problem"),
            user.problem.alias("user_problem"),
            item.problem.alias("item_problem"),
            chunk.repair.alias("row_repair"),
            user.repair.alias("user_repair"),
            item.repair.alias("item_repair"),
            order.value.alias("order"),
            order.problem.alias("order_problem"),
            *parse_times(when, size, missing, config.time.format).get_columns(),
        ]
    )
    again = pl.col("item_repair") == pl.col("user_repair")
    repairs = ["row_repair", "user_repair", pl.when(again.not_() | again.is_null()).then("item_repair")]
    return frame.select(
        "line",
        "user_id",
        "item_id",
        pl.coalesce("problem", "user: " + pl.col("user_problem"), "item: " + pl.col("item_problem"))
        .cast(pl.Categorical)
        .alias("reason"),
        pl.when(pl.any_horizontal(pl.col("row_repair", "user_repair", "item_repair").is_not_null()))
        .then(pl.concat_str(repairs, separator="\n", ignore_nulls=True))
        .cast(pl.Categorical)
        .alias("repair"),
        "order",
        pl.col("order_problem").cast(pl.Categorical),
        "whole",
        "real",
        "moment",
        "time_text",
        pl.col("time_problem").cast(pl.Categorical),
        pl.lit(kind).cast(pl.Categorical).alias("kind"),
    )


def _timed(
    rows: pl.DataFrame, layout: EventLayout, config: DataConfig, *, has_time: bool
) -> tuple[pl.DataFrame, Clock, Order]:
    """The rows, whose ids are good, with `time` as what they are sorted by, `day`, `reason`, `repair` and `ignored`."""
    kinds = set(rows["kind"].unique().cast(pl.String).to_list())
    times, clock = decide(rows, config.time, relative="relative" in kinds, single="single" in kinds)
    rows = rows.select("line", "user_id", "item_id", "repair", "order", "order_problem").hstack(times)
    order = choose_order(layout, rows, has_time=has_time)
    day = pl.when(pl.col("time") >= FIRST_DAY * DAY).then(pl.col("time") // DAY)
    rows = rows.with_columns((pl.lit(None, dtype=pl.Int64) if clock.unit == "relative" else day).alias("day"))
    ignored = pl.col("time_problem").is_not_null() if has_time and order.by == "order" else pl.lit(value=False)
    reason: pl.Expr = pl.lit(None, dtype=pl.String)
    if order.by == "order":
        no_order = pl.when(pl.col("order").is_null()).then(pl.lit("missing order"))
        reason = pl.coalesce(pl.col("order_problem").cast(pl.String), no_order)
    elif order.by == "timestamp":
        reason = pl.col("time_problem")
    key = {"order": "order", "timestamp": "time", "file": "line"}[order.by]
    columns = ["line", "user_id", "item_id", "repair", "is_number", "day"]
    return (
        rows.select(*columns, pl.col(key).alias("time"), ignored.alias("ignored"), reason.alias("reason")),
        clock,
        order,
    )


def _mark(events: pl.DataFrame, known: pl.Series | None, *, same_time: bool) -> pl.DataFrame:
    """Fill `reason` for unknown items, then for all but one of events equal in user, item and time."""
    if known is not None:
        unknown = pl.col("reason").is_null() & ~pl.col("item_id").is_in(known.implode())
        events = events.with_columns(pl.when(unknown).then(pl.lit(UNKNOWN_ITEM)).otherwise("reason").alias("reason"))
    if not same_time:
        return events
    # The row that needed no repair is the one kept, wherever it stands. Rows already marked must not shade good ones.
    same = pl.struct("user_id", "item_id", "time")
    alike = events.filter(pl.col("reason").is_null()).filter(same.is_duplicated())
    alike = alike.with_columns(pl.col("repair").cast(pl.String))
    alike = alike.sort("repair", "ignored", "day", "line", nulls_last=False)
    later = alike.filter(~same.is_first_distinct())["line"]
    again = pl.when(pl.col("line").is_in(later.implode())).then(pl.lit(DUPLICATE_EVENT)).otherwise("reason")
    return events.with_columns(again.alias("reason")) if len(later) else events


def _count(good: pl.DataFrame, counts: Counts, clock: Clock, *, units: bool) -> None:
    repaired = good.filter(pl.col("repair").is_not_null() | pl.col("ignored"))
    classes = repaired["repair"].drop_nulls().cast(pl.String).str.split("\n").explode()
    counts.repairs.update(dict(classes.value_counts().iter_rows()))
    if good["ignored"].any():
        counts.repairs[TIME_IGNORED] = int(good["ignored"].sum())
    if units:
        number = int(good["is_number"].sum())
        unit = {"text": "timestamps in seconds", "relative": "relative times"}.get(
            clock.unit, f"timestamps in {clock.unit}"
        )
        told = {unit: number, "timestamps in ISO 8601": good.height - number}
        counts.notes.update({kind: rows for kind, rows in told.items() if rows})
    counts.repaired = repaired.height
    counts.accepted = good.height - repaired.height
    counts.quarantined = counts.read - good.height
