"""Settings of raw data: files, columns, and how their values are written."""

import codecs
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pauserec.config.settings import BOOKKEEPING, LATER, Settings, counts_as

IdRule = Literal["decimal", "zeros", "case", "blanks"]


class Columns(Settings):
    """Names of the columns of the interactions file."""

    user: str = "user_id"
    """Column with the user id (text)."""
    item: str = "item_id"
    """Column with the item id (text)."""
    timestamp: str | None = "timestamp"
    """Column with seconds (or milli-, micro-, nanoseconds) since 1970 or ISO 8601; null if there is none."""
    order: str | None = Field(default="auto", json_schema_extra=counts_as("order"))
    """Column with the event's position in its user's history, which then counts before the timestamp; null if there is none.
    `auto` takes a column `order` where the file has no time, or where it proves to be such a position."""


class ItemColumns(Settings):
    """Names of the columns of the items file. Of several names, the first that is not empty in a row counts."""

    item: str = "item_id"
    """Column with the item id (text)."""
    title: tuple[str, ...] = ("title_clean", "title", "pseudo_title")
    """Columns with the title."""
    categories: tuple[str, ...] = ("category_path", "categories")
    """Columns with categories: a list, a list of paths (the first counts), or text parted by `category_separator`."""


class TimeConfig(Settings):
    """How times are written. Without these settings the values of the column decide."""

    unit: Literal["auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "days", "relative"] = "auto"
    """Unit of numbers. `relative`: their order counts, not what day they are."""
    zero: str = "1970-01-01"
    """The ISO 8601 time from which numbers count; "1899-12-30" for days of a spreadsheet."""
    format: str | None = None
    """A strptime form, for example "%d/%m/%Y %H:%M"; it is then the only form that is read."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            datetime.fromisoformat(self.zero)
        except ValueError:
            raise ValueError(f"zero {self.zero!r} is no ISO 8601 time: write for example 1970-01-01") from None
        return self


class DataConfig(Settings):
    """Raw logs and how they become histories."""

    source: str = "ml-100k"
    """A known data set (`pauserec assets list`), or a folder: `interactions.*` and `items.*`, RecBole's or Amazon's files."""
    interactions: str | None = None
    """Path of the interactions file, instead of `source`."""
    items: str | None = None
    """Path of the items file, beside `interactions`. Without one, items have no text."""
    after: str | None = Field(default=None, json_schema_extra=LATER)
    """Folder of a prepared data set (RUN/dataset) that these events come after; null begins anew."""
    format: Literal["auto", "table", "recbole", "amazon2014", "amazon2023"] = "auto"
    """Layout of the files; `auto` goes by file name and columns."""
    columns: Columns = Columns()
    """Columns of the interactions file."""
    item_columns: ItemColumns = ItemColumns()
    """Columns of the items file."""
    time: TimeConfig = Field(default=TimeConfig(), json_schema_extra=LATER)
    """How times are written, where the evidence in the column misleads."""
    delimiter: str | None = None
    """Column delimiter of text tables; null finds it from the header."""
    encoding: str | None = Field(default=None, json_schema_extra=LATER)
    """Encoding of text files, for example "windows-1252"; null is UTF-8, or UTF-16 with its mark."""
    quotes: str = Field(default="auto", pattern="^(auto|none|.)$", json_schema_extra=LATER)
    """The quotation mark of text tables; `none`: quotation marks are text. `auto` finds it; RecBole's files have none."""
    escape: Literal["auto", "none", "backslash"] = Field(default="auto", json_schema_extra=LATER)
    """Whether a backslash stands before a quotation mark inside a quoted field; `auto` finds it."""
    missing: tuple[str, ...] = Field(
        default=("", "nan", "null", "none", "nat", "<na>", "\\N", "na", "n/a"), json_schema_extra=LATER
    )
    """Words that mean "no value" in ids, times, titles and categories, in whatever case."""
    ids: tuple[IdRule, ...] = Field(default=(), json_schema_extra=LATER)
    """Spellings of ids that are one, in both files: `decimal` (100.0 is 100), `zeros` (00100 is 100), `case`, `blanks`."""
    html: Literal["clean", "keep"] = Field(default="clean", json_schema_extra=LATER)
    """Whether HTML elements are taken out of titles and categories, and entities resolved."""
    max_loss: float = Field(default=0.5, gt=0, le=1, json_schema_extra=LATER | BOOKKEEPING)
    """Largest share of a file's rows that may be left out as unusable; duplicates do not count."""
    category_separator: str = " > "
    """Parts a category path that is given as text; the default also parts at `|` where no ` > ` stands."""
    min_interactions: int = Field(default=5, ge=1)
    """k of k-core filtering: items and users with fewer events are dropped, repeatedly."""
    ties: Literal["hash", "file"] = "hash"
    """Order of events with equal time: by a fixed hash of user and item, or as in the file."""
    repeats: Literal["first", "keep"] = "first"
    """Of several events of one user with one item, keep the first or all."""
    max_title_chars: int = Field(default=512, ge=8)
    """Longer titles are cut."""

    @field_validator("missing", mode="before")
    @classmethod
    def _null_is_a_word(cls, missing: Any) -> Any:
        """A recipe's "null" stands for no value wherever it is met; here it is a word."""
        return ["null" if word is None else word for word in missing] if isinstance(missing, list | tuple) else missing

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            try:
                codecs.lookup(encoding)
            except LookupError:
                raise ValueError(f'{encoding!r} is no encoding: write for example "windows-1252" or "utf-16"') from None
        return encoding

    @property
    def missing_words(self) -> frozenset[str]:
        """`missing` in lower case."""
        return frozenset(word.lower() for word in self.missing)
