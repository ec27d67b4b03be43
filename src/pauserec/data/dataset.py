"""The dataset step: raw logs -> a prepared folder -> `Dataset`. Leave-last-out itself is `Dataset.split`.

The folder holds items.parquet (item_id, title, categories; row = item number), histories.parquet (user_id, items, and
day where the log has times),
quarantine.jsonl and report.json.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl
from polars.exceptions import PanicException, PolarsError

from pauserec.assets.named import check_name
from pauserec.config import Columns, DataConfig
from pauserec.data.later import appended
from pauserec.data.left_out import WARN_FROM, check_loss, is_much, lost_rows, nothing_left, seen_targets
from pauserec.data.raw.events import Raw, read_raw
from pauserec.data.raw.layouts import files_in, find_files, open_events, open_items, own_folder
from pauserec.data.raw.parts import of_folder
from pauserec.data.raw.quarantine import write_quarantine
from pauserec.data.sequences import Histories, build_histories, id_hash
from pauserec.errors import DataError
from pauserec.records import Dataset, IntArray, Item
from pauserec.runs.files import read_json, read_table, write_atomically, write_table

ITEMS, HISTORIES, QUARANTINE, REPORT = "items.parquet", "histories.parquet", "quarantine.jsonl", "report.json"


def prepare(config: DataConfig, *, out: Path, log: Callable[..., None]) -> dict[str, Any]:
    """Write the prepared data set into `out`; return users, items, interactions, quarantined and fingerprint.

    Raises DataError if a file cannot be used, or if k-core filtering leaves nothing.
    """
    earlier = load_dataset(Path(config.after)) if config.after else None
    raw = read_raw(config, {item.item_id: item for item in earlier.items} if earlier else None)
    check_loss(raw, config)
    if earlier is None:
        histories = build_histories(raw.events, config.min_interactions, config.ties, config.repeats)
    else:
        histories = appended(earlier, raw.events, config)
    report = describe(raw, histories)
    if histories.events.is_empty():
        raise DataError(nothing_left(raw, config))
    items = raw.items if earlier is None else {item.item_id: item for item in earlier.items} | raw.items
    dataset = _number(histories.events, items)
    lost = lost_rows(raw)
    if lost and is_much(raw, WARN_FROM):
        warnings.warn(f"{lost}: see {QUARANTINE} of the step dataset", stacklevel=2)
    summary = {
        "users": len(dataset.users),
        "items": len(dataset.items),
        "interactions": dataset.interactions,
        "quarantined": raw.left_out.height,
        "fingerprint": dataset.fingerprint,
        "ties": tie_rule(raw, config),
        "left_out": lost,
    }
    if config.repeats == "keep":
        summary["seen_targets"] = seen_targets(dataset)
    out.mkdir(parents=True, exist_ok=True)
    _write_tables(dataset, out)
    write_quarantine(out / QUARANTINE, raw.left_out)
    write_atomically(out / REPORT, orjson.dumps(report | summary, option=orjson.OPT_INDENT_2))
    log(event="prepared", **summary)
    return summary


def tie_rule(raw: Raw, config: DataConfig) -> Literal["column", "file", "hash"]:
    """What orders a user's events of one time: an order column, the file, or a hash of user and item."""
    if raw.ordered_by == "order":
        return "column"
    return "file" if raw.ordered_by == "file" or config.ties == "file" else "hash"


def raw_files(config: DataConfig) -> tuple[Path, ...]:
    """The user's own files that `prepare` would read; none where they are gone or a data set is known by name.

    Raises DataError.
    """
    folder = own_folder(config)
    if config.interactions is None and (folder is None or files_in(folder) is None):
        return ()
    found = [path for path in find_files(config) if path is not None]
    found += [Path(config.after) / name for name in (ITEMS, HISTORIES)] if config.after else []
    return tuple(part for path in found for part in (of_folder(path) if path.is_dir() else [path]))


def check_raw(config: DataConfig) -> None:
    """Raise DataError or AssetError, before anything is written, where a raw file cannot be opened or lacks a column."""
    folder = own_folder(config)
    if config.interactions is None and (folder is None or not folder.exists()):
        check_name(config.source, "data set", "data.source")
        return
    events, items = find_files(config)
    open_events(events, config)
    if items is not None:
        open_items(items, config)


def follows_another_rule(config: DataConfig, path: Path) -> bool:
    """Whether an earlier version prepared `path` by a column called `order` that today's rule for `auto` does not take.

    Reads the raw events where this is in question. Raises DataError.
    """
    report = read_json(path / REPORT)
    asked = report.get("ordered_by") == "order" and "order_rule" not in report
    if not asked or config.columns.order != Columns().order:
        return False
    files = raw_files(config)
    there = bool(files) and all(file.is_file() for file in files)  # a finished run does without its data
    return there and read_raw(config).ordered_by != "order"


def load_dataset(path: Path) -> Dataset:
    """Read what `prepare` wrote. Raises DataError if the folder is not complete."""
    try:
        items = read_table(path / ITEMS)
        histories = read_table(path / HISTORIES)
        fingerprint = orjson.loads((path / REPORT).read_bytes())["fingerprint"]
        entries = zip(items["item_id"], items["title"], items["categories"].to_list(), strict=True)
        return Dataset(
            items=tuple(Item(item_id, title, tuple(labels)) for item_id, title, labels in entries),
            users=tuple(histories["user_id"].to_list()),
            sequences=_cut(histories["items"].explode(), histories["items"].list.len()),
            fingerprint=str(fingerprint),
            days=_cut(histories["day"].explode(), histories["day"].list.len()) if "day" in histories.columns else None,
        )
    except (OSError, PolarsError, PanicException, orjson.JSONDecodeError, KeyError, TypeError) as error:
        kind = type(error).__name__
        raise DataError(f"{path} is no prepared data set ({kind}): redo the step with --redo dataset") from None


def describe(raw: Raw, histories: Histories) -> dict[str, Any]:
    """Counts per class for both files, and what happened on the way to histories."""
    return {
        "interactions_file": raw.counts.as_dict(),
        "items_file": None if raw.without_text else raw.item_counts.as_dict(),
        "items_without_events": len(raw.items) - raw.events["item_id"].n_unique(),
        "files": raw.written,
        "times": raw.clock.line(),
        "ids": raw.meeting.line() if raw.meeting else "",
        "ordered_by": raw.ordered_by,
        "order_rule": raw.order.rule,
        "users_order_and_time_disagree": raw.order.disagree,
        "ties": histories.ties,
        "repeats": histories.repeats,
        "before_core": _size(raw.events),
        "outside_core": histories.outside_core,
        "short_users": histories.short_users,
        "after_core": _size(histories.events),
    }


def _size(events: pl.DataFrame) -> dict[str, int]:
    users, items = events["user_id"].n_unique(), events["item_id"].n_unique()
    return {"users": users, "items": items, "interactions": events.height}


def _number(events: pl.DataFrame, items: dict[str, Item]) -> Dataset:
    """Number the items in the order of a hash of their ids, so that numbers carry no information."""
    catalogue = sorted(events["item_id"].unique().to_list(), key=lambda item_id: (id_hash(item_id), item_id))
    numbers = pl.DataFrame({"item_id": catalogue, "number": np.arange(len(catalogue), dtype=np.int64)})
    columns = [name for name in ("user_id", "item_id", "day") if name in events.columns]
    numbered = events.select(columns).join(numbers, on="item_id", how="left", maintain_order="left").drop("item_id")
    if "day" not in numbered.columns:
        numbered = numbered.with_columns(day=pl.lit(None, dtype=pl.Int64))
    users = numbered["user_id"].rle().struct.unnest()
    sequences = _cut(numbered["number"], users["len"])
    days = numbered["day"].fill_null(-1)
    dated = _cut(days, users["len"]) if bool((days >= 0).any()) else None
    entries = tuple(items[item_id] for item_id in catalogue)
    names = tuple(users["value"].to_list())
    return Dataset(entries, names, sequences, _fingerprint(entries, names, sequences), dated)


def _cut(column: pl.Series, lengths: pl.Series) -> tuple[IntArray, ...]:
    """A column of all users as an array of each."""
    values = column.to_numpy().astype(np.int64)
    return tuple(np.split(values, np.cumsum(lengths.to_numpy())[:-1])) if len(lengths) else ()


def _uncut(arrays: Sequence[IntArray]) -> pl.Series:
    """Arrays as a column of lists."""
    lengths = np.fromiter((len(array) for array in arrays), dtype=np.int64, count=len(arrays))
    flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
    frame = pl.DataFrame({"row": np.repeat(np.arange(len(arrays)), lengths), "value": flat})
    return frame.group_by("row", maintain_order=True).agg("value")["value"]


def _fingerprint(items: Sequence[Item], users: Sequence[str], sequences: Sequence[IntArray]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(orjson.dumps([item.item_id, item.title, item.categories]) + b"\n")
    for user, sequence in zip(users, sequences, strict=True):
        digest.update(orjson.dumps([user, sequence.tolist()]) + b"\n")
    return digest.hexdigest()


def _write_tables(dataset: Dataset, out: Path) -> None:
    columns = [
        pl.Series("item_id", [item.item_id for item in dataset.items], dtype=pl.String),
        pl.Series("title", [item.title for item in dataset.items], dtype=pl.String),
        pl.Series("categories", [list(item.categories) for item in dataset.items], dtype=pl.List(pl.String)),
    ]
    write_table(out / ITEMS, pl.DataFrame(columns))
    histories = {"user_id": pl.Series(dataset.users, dtype=pl.String), "items": _uncut(dataset.sequences)}
    if dataset.days is not None:
        histories["day"] = _uncut(dataset.days)
    write_table(out / HISTORIES, pl.DataFrame(histories))
