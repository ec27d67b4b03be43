"""Which columns of a person's own files hold users, items, times, titles and categories: by name first, then by values."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pauserec.config import DataConfig, ItemColumns
from pauserec.data.raw.layouts import open_events, open_items, open_like_events
from pauserec.data.raw.rows import Table
from pauserec.errors import DataError

USER = (
    "user customer client member visitor reader buyer shopper account subscriber patron reviewer person uid household"
)
ITEM = (
    "item product sku asin isbn article movie film book song track ean gtin upc content stockcode goods listing offer game "
    "video recipe course dish material page part node release title"
)
TIME = (
    "timestamp time datetime date ts day when created bought purchased ordered lent rated viewed watched event_time at on "
    "occurred sold invoicedate epoch"
)
TITLE = "title name label headline product_name item_name description caption text summary"
CATEGORIES = (
    "categories category category_path genres genre department class group collection shelf type subject topic section tags "
    "brand family"
)
ROWS = 2000
"""Rows of a file that are looked at."""
LIKE_IDS, LIKE_TIMES = 0.5, 0.8
"""Shares of a sample that must meet the items file, or read as times, for a column to be taken by its values."""
_TIMES = re.compile(r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b|(1|9)\d{8,18}(\.\d+)?\s*$)")


@dataclass(frozen=True)
class Found:
    """The data settings that read a person's files, and what was found, as lines for the person."""

    data: DataConfig
    lines: tuple[str, ...]


def find_columns(data: DataConfig, given: Collection[str] = ()) -> Found:
    """`data` with its columns found in the files. given: settings that the person chose, which are kept.

    Raises DataError where a file cannot be read, or where neither names nor values say which column is which.
    """
    events, _ = open_like_events(Path(str(data.interactions)), data)
    items = open_like_events(Path(data.items), data)[0] if data.items else None
    if _known_layout(data, events, items):
        return Found(data, tuple(table.line() for table in (events, items) if table is not None))
    sample, catalogue = _sample(events), _sample(items) if items is not None else {}
    chosen = {
        key: getattr(data.columns, key) for key in ("user", "item", "timestamp") if f"data.columns.{key}" in given
    }
    item_id = data.item_columns.item if "data.item_columns.item" in given else None
    item, item_id = _item(sample, catalogue, chosen.get("item"), item_id)
    stamp = chosen.get("timestamp", _by_name(sample, TIME, {item}, _reads_as_time) or _by_values(sample, {item}))
    user = chosen.get("user") or _by_name(sample, USER, {item, stamp}) or _most_repeated(sample, {item, stamp})
    for role, column in (("user", user), ("item", item)):
        if column is None:
            raise DataError(
                f"{events.path}: no column of {list(events.columns)[:20]} looks like the {role}'s: name it with "
                f"--set data.columns.{role}=COLUMN"
            )
    columns = data.columns.model_copy(update={"user": user, "item": item, "timestamp": stamp})
    update: dict[str, Any] = {"columns": columns}
    if stamp is None and "order" not in events.columns:
        update["ties"] = "file"
    lines = [
        f"{events.path.name}: user = {user}, item = {item}, "
        + (f"time = {stamp}" if stamp else "time: the file's order")
    ]
    if items is not None:
        texts = _texts(catalogue, item_id or "", data, given)
        update["item_columns"] = texts
        lines.append(
            f"{items.path.name}: item = {texts.item}, title = {' or '.join(texts.title) or 'none'}, "
            f"categories = {' or '.join(texts.categories) or 'none'}"
        )
    found = data.model_copy(update=update)
    open_events(events.path, found)
    if items is not None:
        open_items(items.path, found)
    return Found(found, tuple(lines))


def _known_layout(data: DataConfig, events: Table, items: Table | None) -> bool:
    """Whether the files have the columns that the recipe's settings, or a known layout, name already."""
    try:
        open_events(events.path, data)
        if items is not None:
            _, layout = open_items(items.path, data)
            return bool({*layout.title, *layout.categories} & set(items.columns))
    except DataError:
        return False
    return True


def _item(
    sample: Mapping[str, Sequence[str]], catalogue: Mapping[str, Sequence[str]], item: str | None, item_id: str | None
) -> tuple[str | None, str | None]:
    """The column of items in the events, and in the items file: where most ids are in both, names breaking ties."""
    if catalogue:
        pairs = {
            (one, other): (
                round(_shared(sample[one], catalogue[other]), 1),
                _named(one, ITEM),
                _distinct(catalogue[other]),
            )
            for one in ([item] if item is not None and item in sample else list(sample))
            for other in ([item_id] if item_id is not None and item_id in catalogue else list(catalogue))
        }
        best = max(pairs, key=lambda pair: pairs[pair])
        if pairs[best][0] >= LIKE_IDS:
            return best
    item = item or _by_name(sample, ITEM, set())
    return item, item_id or _by_name(catalogue, ITEM, set()) or next(iter(catalogue), None)


def _texts(catalogue: Mapping[str, Sequence[str]], item: str, data: DataConfig, given: Collection[str]) -> ItemColumns:
    own = data.item_columns
    if "data.item_columns.title" in given:
        title: str | None = own.title[0] if own.title else None
    else:
        title = _by_name(catalogue, TITLE, {item}) or _wordiest(catalogue, {item})
    if "data.item_columns.categories" in given:
        return ItemColumns(item=item, title=(title,) if title else (), categories=own.categories)
    categories = _by_name(catalogue, CATEGORIES, {item, title})
    return ItemColumns(item=item, title=(title,) if title else (), categories=(categories,) if categories else ())


def _sample(table: Table | None) -> dict[str, list[str]]:
    """Values of the first rows by column, as text; missing ones left out."""
    if table is None:
        return {}
    found: dict[str, list[str]] = {name: [] for name in table.columns}
    for _, row in islice(table.rows(table.columns), ROWS):
        for name, value in zip(table.columns, row.values, strict=True) if not row.problem else ():
            if value is not None and str(value).strip():
                found[name].append(str(value).strip())
    return {name: values for name, values in found.items() if values}


def _by_name(
    sample: Mapping[str, Sequence[str]],
    words: str,
    taken: Collection[str | None],
    fits: Callable[[Sequence[str]], bool] = bool,
) -> str | None:
    """The column whose name says it most plainly, of those whose values may be it."""
    known = {name: _named(name, words) for name in sample if name not in taken and fits(sample[name])}
    best = max(known, key=lambda name: known[name], default=None)
    return best if best is not None and known[best] > 0 else None


def _named(name: str, words: str) -> float:
    """How plainly a column's name says one of the words: earlier words and nothing beside them count more."""
    parts = [part.lower() for part in re.findall(r"[A-Za-z][a-z]*|[A-Z]+(?![a-z])|\d+", name)]
    whole = re.sub(r"[^a-z]", "", name.lower())
    order = words.split()
    hits = [
        place
        for place, word in enumerate(order)
        if word in parts or whole in (word.replace("_", ""), f"{word}id", f"{word}s")
    ]
    if not hits:
        return 0.0
    extra = len([part for part in parts if part not in order and part not in ("id", "no", "number", "code", "key")])
    return 1.0 / (1 + extra) + 0.5 * ("id" in parts or whole.endswith("id")) + 0.1 / (1 + hits[0])


def _shared(values: Sequence[str], others: Sequence[str]) -> float:
    """Share of values that stand among the others; columns of few different values say nothing."""
    known = set(others)
    if len(known) < min(10, len(others)):
        return 0.0
    return sum(value in known for value in values) / len(values)


def _distinct(values: Sequence[str]) -> float:
    return len(set(values)) / len(values)


def _reads_as_time(values: Sequence[str]) -> bool:
    return sum(bool(_TIMES.match(value)) for value in values) >= LIKE_TIMES * len(values)


def _by_values(sample: Mapping[str, Sequence[str]], taken: Collection[str | None]) -> str | None:
    """A column that reads as times, whatever its name."""
    return next((name for name, values in sample.items() if name not in taken and _reads_as_time(values)), None)


def _most_repeated(sample: Mapping[str, Sequence[str]], taken: Collection[str | None]) -> str | None:
    """Of columns whose values come again, the one with the most different ones: of users there are many, of counts few."""
    repeated = {
        name: len(set(values))
        for name, values in sample.items()
        if name not in taken and 10 <= len(set(values)) < 0.9 * len(values) and not _decimal(values)
    }
    return max(repeated, key=lambda name: repeated[name], default=None)


def _decimal(values: Sequence[str]) -> bool:
    return sum("." in value and value.replace(".", "", 1).lstrip("-").isdigit() for value in values) > len(values) / 2


def _wordiest(catalogue: Mapping[str, Sequence[str]], taken: Collection[str | None]) -> str | None:
    """The column with the most letters that differs from row to row."""
    letters = {
        name: sum(sum(letter.isalpha() for letter in value) for value in values) / len(values)
        for name, values in catalogue.items()
        if name not in taken and _distinct(values) > 0.5
    }
    best = max(letters, key=lambda name: letters[name], default=None)
    return best if best is not None and letters[best] >= 3 else None
