"""The items file -> catalogue entries. Of several rows for one item the richest is kept, whatever their order."""

import html
from typing import Any

from pauserec.config import DataConfig
from pauserec.data.raw.clean import BadValueError, clean_categories, clean_id, clean_text
from pauserec.data.raw.layouts import ItemLayout
from pauserec.data.raw.quarantine import RAW_CHARS, Counts, Quarantined, quarantined
from pauserec.data.raw.rows import Row, Table
from pauserec.records import Item

DUPLICATE_ITEM = "duplicate item"


def read_items(
    table: Table, layout: ItemLayout, config: DataConfig, counts: Counts, quarantine: list[Quarantined]
) -> dict[str, Item]:
    """Items by id, sorted; fills `counts` and `quarantine`."""
    columns = [layout.item, *layout.title, *layout.categories]
    kept: dict[str, tuple[Item, Row, tuple[str, ...]]] = {}
    for row in table.rows(columns):
        counts.read += 1
        try:
            item, repairs = _item(row, layout, config)
        except BadValueError as bad:
            quarantine.append(quarantined(table.path, row, str(bad)))
            counts.reasons[str(bad)] += 1
            continue
        # Only the start of a row's text is ever shown; the rest need not stay in memory.
        entry = (item, Row(row.line, row.raw[:RAW_CHARS]), repairs)
        rival = kept.get(item.item_id)
        if rival is not None:
            better, worse = (entry, rival) if _richness(*entry) > _richness(*rival) else (rival, entry)
            quarantine.append(quarantined(table.path, worse[1], DUPLICATE_ITEM))
            counts.reasons[DUPLICATE_ITEM] += 1
            entry = better
        kept[item.item_id] = entry
    for item, _, repairs in kept.values():
        counts.repairs.update(repairs)
        counts.repaired += bool(repairs)
        counts.notes["empty title"] += not item.title
        counts.notes["no categories"] += not item.categories
    counts.accepted = len(kept) - counts.repaired
    counts.quarantined = counts.read - len(kept)
    return {item_id: kept[item_id][0] for item_id in sorted(kept)}


def _item(row: Row, layout: ItemLayout, config: DataConfig) -> tuple[Item, tuple[str, ...]]:
    if row.problem:
        raise BadValueError(row.problem)
    item_id, repair = clean_id(row.values[0])
    titles = row.values[1 : 1 + len(layout.title)]
    title = ""
    title_repairs: tuple[str, ...] = ()
    for value in titles:
        title, repairs = clean_text(_unescaped(value) if layout.html else value, config.max_title_chars)
        title_repairs += repairs
        if title:
            break
    categories: tuple[str, ...] = ()
    category_repairs: tuple[str, ...] = ()
    for value in row.values[1 + len(layout.title) :]:
        value = _unescaped(value) if layout.html else value
        categories, repairs = clean_categories(value, layout.separator, config.max_title_chars)
        category_repairs += repairs
        if categories:
            break
    all_repairs = (row.repair, repair, *title_repairs, *category_repairs)
    return Item(item_id, title, categories), tuple(dict.fromkeys(repair for repair in all_repairs if repair))


def _richness(item: Item, row: Row, repairs: tuple[str, ...]) -> tuple[Any, ...]:
    """Of two rows for one item the greater is kept: with title, with categories, any fixed order, then the less repaired."""
    return bool(item.title), bool(item.categories), item.title, item.categories, -len(repairs), repairs


def _unescaped(value: Any, depth: int = 2) -> Any:
    """HTML entities resolved in text, in a list of text, or in a list of paths."""
    if isinstance(value, str):
        return html.unescape(value)
    if isinstance(value, list) and depth:
        return [_unescaped(entry, depth - 1) for entry in value]
    return value
