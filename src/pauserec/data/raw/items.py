"""The items file -> catalogue entries. Of several rows for one item the richest is kept, whatever their order."""

import warnings
from typing import Any

import polars as pl

from pauserec.config import DataConfig
from pauserec.data.raw.chunks import Row
from pauserec.data.raw.clean import BadValueError, clean_categories, clean_id, clean_text, respelt
from pauserec.data.raw.layouts import ItemLayout
from pauserec.data.raw.quarantine import PART, Counts, rejected
from pauserec.data.raw.rows import Table
from pauserec.records import Item

DUPLICATE_ITEM = "duplicate item"


def read_items(
    table: Table, layout: ItemLayout, config: DataConfig, counts: Counts, left_out: list[pl.DataFrame]
) -> dict[str, Item]:
    """Items by id, sorted; fills `counts` and `left_out`, and warns where no item has a text of its own."""
    columns = [layout.item, *layout.title, *layout.categories]
    kept: dict[str, tuple[Item, int, tuple[str, ...]]] = {}
    bad: list[tuple[int, str]] = []
    for number, _, chunk in table.chunks(columns):
        for row in chunk.rows():
            counts.read += 1
            place = number * PART + row.line
            try:
                item, repairs = _item(row, layout, config)
            except BadValueError as problem:
                bad.append((place, str(problem)))
                continue
            entry = (item, place, repairs)
            rival = kept.get(item.item_id)
            if rival is not None:
                better, worse = (entry, rival) if _richness(*entry) > _richness(*rival) else (rival, entry)
                bad.append((worse[1], DUPLICATE_ITEM))
                entry = better
            kept[item.item_id] = entry
    frame = pl.DataFrame(bad, schema={"line": pl.Int64, "reason": pl.String}, orient="row")
    left_out.append(rejected(table, columns, frame))
    counts.reasons.update(reason for _, reason in bad)
    for item, _, repairs in kept.values():
        counts.repairs.update(repairs)
        counts.repaired += bool(repairs)
        counts.notes["empty title"] += not item.title
        counts.notes["no categories"] += not item.categories
    counts.accepted = len(kept) - counts.repaired
    counts.quarantined = counts.read - len(kept)
    items = {item_id: kept[item_id][0] for item_id in sorted(kept)}
    _warn_of_text(table, layout, items)
    return items


def _warn_of_text(table: Table, layout: ItemLayout, items: dict[str, Item]) -> None:
    texts = {(item.title, item.categories) for item in items.values()}
    if len(items) < 2 or len(texts) > 1:
        return
    if not {*layout.title, *layout.categories} & set(table.columns):
        found = ", ".join(name for name in table.columns if name != layout.item)[:200]
        line = f"has neither a column of titles nor of categories (it has: {found}): set data.item_columns.title"
    elif texts == {("", ())}:
        line = "gives no item a title or a category: set data.item_columns.title"
    else:
        line = f"gives all {len(items)} items the same text: text tells none of them from another"
    warnings.warn(f"{table.path.name} {line}", stacklevel=2)


def _item(row: Row, layout: ItemLayout, config: DataConfig) -> tuple[Item, tuple[str, ...]]:
    if row.problem:
        raise BadValueError(row.problem)
    missing, longest = config.missing_words, config.max_title_chars
    item_id, repair = clean_id(row.values[0], missing)
    if config.ids:
        item_id = respelt(pl.Series([item_id]), config.ids)[0]
    title = ""
    title_repairs: tuple[str, ...] = ()
    for value in row.values[1 : 1 + len(layout.title)]:
        title, repairs = clean_text(value, longest, missing, config.html)
        title_repairs += repairs
        if title:
            break
    categories: tuple[str, ...] = ()
    category_repairs: tuple[str, ...] = ()
    for value in row.values[1 + len(layout.title) :]:
        categories, repairs = clean_categories(value, layout.separator, longest, missing, config.html)
        category_repairs += repairs
        if categories:
            break
    all_repairs = (row.repair, repair, *title_repairs, *category_repairs)
    return Item(item_id, title, categories), tuple(dict.fromkeys(repair for repair in all_repairs if repair))


def _richness(item: Item, place: int, repairs: tuple[str, ...]) -> tuple[Any, ...]:
    """Of two rows for one item the greater is kept: with title, with categories, any fixed order, then the less repaired."""
    return bool(item.title), bool(item.categories), item.title, item.categories, -len(repairs), repairs
