"""Where raw files lie and what their columns are called: plain tables, RecBole, Amazon reviews of 2014 and 2023."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pauserec.assets import named
from pauserec.config import Columns, DataConfig, ItemColumns
from pauserec.data.raw.rows import Reading, Table, open_table
from pauserec.errors import DataError

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".jsonl", ".ndjson", ".json")
LayoutName = Literal["table", "recbole", "amazon2014", "amazon2023"]


@dataclass(frozen=True)
class EventLayout:
    """Names of the columns of an interactions file; null where there is none."""

    user: str
    item: str
    timestamp: str | None
    order: str | None
    order_named: bool = False
    """Whether the recipe itself names the order column, which then counts without a proof."""


@dataclass(frozen=True)
class ItemLayout:
    """Names of the columns of an items file; of several, the first that is not empty in a row counts."""

    item: str
    title: tuple[str, ...]
    categories: tuple[str, ...]
    separator: str


_TABLE = EventLayout("user_id", "item_id", "timestamp", "order")
_EVENTS: dict[LayoutName, EventLayout] = {
    "table": _TABLE,
    "recbole": _TABLE,
    "amazon2014": EventLayout("reviewerID", "asin", "unixReviewTime", None),
    "amazon2023": EventLayout("user_id", "parent_asin", "timestamp", None),
}
_AMAZON = ItemLayout("asin", ("title",), ("categories",), " > ")
_ITEMS: dict[LayoutName, ItemLayout] = {
    "recbole": ItemLayout("item_id", ("title", "movie_title", "name"), ("categories", "class", "genre", "genres"), " "),
    "amazon2014": replace(_AMAZON, categories=("categories", "category")),
    "amazon2023": replace(_AMAZON, item="parent_asin"),
}


def find_files(config: DataConfig) -> tuple[Path, Path | None]:
    """Paths of the interactions file and of the items file (None: items have no text). Raises DataError, AssetError."""
    if config.interactions is not None:
        return Path(config.interactions).expanduser(), Path(config.items).expanduser() if config.items else None
    if config.items is not None:
        raise DataError("data.items is set without data.interactions: name both files, or neither")
    folder = own_folder(config)
    if folder is None or not folder.exists():
        folder = named.dataset(config.source)
    if not folder.is_dir():
        raise DataError(f"data.source {folder} is a file: name its folder, or set data.interactions and data.items")
    found = files_in(folder)
    if found is None:
        raise DataError(
            f"{folder} has no interactions.*, no *.inter and no reviews beside meta_*: set data.interactions"
        )
    return found


def own_folder(config: DataConfig) -> Path | None:
    """`data.source` as a folder of one's own; None where it is the name of a known data set (`./NAME` is a folder)."""
    return None if named.is_known(config.source) else Path(config.source).expanduser()


def files_in(folder: Path) -> tuple[Path, Path | None] | None:
    """The files in a folder of one's own, if it is one and holds any. Raises DataError if it holds several of a kind."""
    inside = folder.iterdir() if folder.is_dir() else ()
    names = sorted(path for path in inside if path.is_file() or path.suffix.lower() in SUFFIXES)  # or a folder of parts
    for events, items in (_by_stem(names, "interactions", "items"), _recbole(names), _amazon(names)):
        if len(events) > 1 or len(items) > 1:
            several = ", ".join(path.name for path in (events if len(events) > 1 else items))
            raise DataError(f"{folder} holds several candidates ({several}): set data.interactions and data.items")
        if events:
            return events[0], items[0] if items else None
    return None


def open_events(path: Path, config: DataConfig) -> tuple[Table, EventLayout]:
    """The interactions file and its columns. Raises DataError naming the columns found and those expected."""
    table, layout = open_like_events(path, config)
    default, given = Columns(), config.columns
    named = {} if given.timestamp in (None, default.timestamp) else {"timestamp": given.timestamp}
    if given.order not in (None, default.order, _TABLE.order):  # earlier recipes wrote "order" out as the default
        named["order"] = given.order
    wanted = {"user": layout.user, "item": layout.item, **named}
    _require(table, {f"data.columns.{setting}": (column,) for setting, column in wanted.items() if column})
    has_time = layout.timestamp in table.columns or layout.order in table.columns
    if not has_time and not (layout.timestamp is None and config.ties == "file"):
        raise DataError(
            f"{path}: neither a timestamp ({layout.timestamp}) nor an order column ({layout.order}) among "
            f"{_names(table)}: set data.columns.timestamp or data.columns.order; if the file itself is in time order, "
            'set data.columns.timestamp="null" and data.ties="file"'
        )
    return table, layout


def open_like_events(path: Path, config: DataConfig) -> tuple[Table, EventLayout]:
    """A file and what the recipe would call its columns, be they in it or not. Raises DataError."""
    table = open_table(path, _known(config), _reading(config))
    default, given = Columns(), config.columns
    known = _EVENTS[_layout_name(table, config, given.item)]
    layout = EventLayout(
        user=known.user if given.user == default.user else given.user,
        item=known.item if given.item == default.item else given.item,
        timestamp=known.timestamp if given.timestamp == default.timestamp else given.timestamp,
        order=known.order if given.order == default.order else given.order,
        order_named=given.order not in (None, default.order),
    )
    return table, layout


def open_items(path: Path, config: DataConfig) -> tuple[Table, ItemLayout]:
    """The items file and its columns. Raises DataError naming the columns found and those expected."""
    table = open_table(path, _known(config), _reading(config))
    name = _layout_name(table, config, config.item_columns.item)
    default, given, separator = ItemColumns(), config.item_columns, config.category_separator
    known = _ITEMS.get(name, ItemLayout(given.item, given.title, given.categories, separator))
    if separator != DataConfig().category_separator:
        known = replace(known, separator=separator)
    layout = replace(
        known,
        item=known.item if given.item == default.item else given.item,
        title=known.title if given.title == default.title else given.title,
        categories=known.categories if given.categories == default.categories else given.categories,
    )
    named = {"title": given.title, "categories": given.categories}
    named = {setting: columns for setting, columns in named.items() if columns not in ((), getattr(default, setting))}
    wanted = {"item": (layout.item,), **named}
    _require(table, {f"data.item_columns.{setting}": columns for setting, columns in wanted.items()})
    return table, layout


def _reading(config: DataConfig) -> Reading:
    recbole = config.format == "recbole"
    return Reading(config.delimiter, config.encoding, config.quotes, config.escape, recbole=recbole)


def _layout_name(table: Table, config: DataConfig, item_column: str) -> LayoutName:
    if config.format != "auto":
        return config.format
    if table.path.name.removesuffix(".gz").lower().endswith((".inter", ".item")):
        return "recbole"
    if item_column in table.columns:
        return "table"
    if "parent_asin" in table.columns:
        return "amazon2023"
    return "amazon2014" if "asin" in table.columns else "table"


def _known(config: DataConfig) -> frozenset[str]:
    given = config.columns
    own = EventLayout(given.user, given.item, given.timestamp, None if given.order == Columns().order else given.order)
    events = [*_EVENTS.values(), own]
    names = {name for layout in events for name in (layout.user, layout.item, layout.timestamp, layout.order) if name}
    for layout in _ITEMS.values():
        names |= {layout.item, *layout.title, *layout.categories}
    return frozenset(names | {config.item_columns.item, *config.item_columns.title, *config.item_columns.categories})


def _require(table: Table, wanted: dict[str, tuple[str, ...]]) -> None:
    """wanted: by setting, columns of which one must be there."""
    for setting, names in wanted.items():
        if not set(names) & set(table.columns):
            missing = " or ".join(map(repr, names))
            raise DataError(
                f"{table.path}: no column {missing} among {_names(table)}: set {setting}, or data.delimiter if the "
                "columns were not parted; a file without a header row needs one"
            )


def _names(table: Table) -> str:
    names = [name if len(name) <= 40 else name[:40] + "..." for name in table.columns[:20]]
    return repr(names)


def _plain_suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _by_stem(paths: list[Path], *stems: str) -> tuple[list[Path], ...]:
    tables = [path for path in paths if _plain_suffix(path) in SUFFIXES]
    return tuple([path for path in tables if path.name.split(".")[0] == stem] for stem in stems)


def _recbole(paths: list[Path]) -> tuple[list[Path], ...]:
    return tuple([path for path in paths if _plain_suffix(path) == suffix] for suffix in (".inter", ".item"))


def _amazon(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    files = [path for path in paths if _plain_suffix(path) in (".json", ".jsonl")]
    items = [path for path in files if path.name.startswith("meta_")]
    return [path for path in files if path not in items] if items else [], items
