"""Raw files as rows, one bad row never stopping the others: delimited text, JSON lines, Parquet, and folders of parts.

A row that cannot be parsed comes out with its `problem`; only a file that cannot be used at all raises DataError. Blank lines
are no rows.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from pauserec.data.raw import parts
from pauserec.data.raw.chunks import Chunk, Row
from pauserec.data.raw.delimited import Dialect, delimited_chunks, finds_escapes, finds_single_quotes
from pauserec.data.raw.json_lines import json_chunks, parse_record
from pauserec.data.raw.lines import read_blocks
from pauserec.data.raw.parquet_rows import parquet_chunks, parquet_columns
from pauserec.errors import DataError

DELIMITERS = ("\t", ",", ";", "|")
JSON = re.compile(r"\s*(\{|\[\s*(\{|$))")
"""How a file of JSON begins, whatever its name."""
SEPARATOR_LINE = re.compile(r"sep=(.)$", re.IGNORECASE)
"""What a spreadsheet writes above the header to name the delimiter."""
SAMPLE_ROWS = 1000
"""Rows of a file that are looked at to learn its columns and its dialect."""
OTHERS = {
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it, or use gzip",
    b"ARRO": "an Arrow (Feather) file: write it as Parquet",
    b"Obj\x01": "an Avro file: write it as Parquet",
    b"ORC": "an ORC file: write it as Parquet",
    b"SQLi": "an SQLite database: write its table as CSV",
}
"""What other files begin with, and what to do with them."""


@dataclass(frozen=True)
class Reading:
    """What a recipe says about the text of its files; null is found by evidence."""

    delimiter: str | None = None
    encoding: str | None = None
    quotes: str = "auto"
    escape: Literal["auto", "none", "backslash"] = "auto"
    recbole: bool = False


@dataclass(frozen=True)
class Table:
    """A raw file, or a part of one, whose columns are known."""

    path: Path
    kind: Literal["delimited", "jsonl", "parquet"]
    columns: tuple[str, ...]
    dialect: Dialect | None = None
    encoding: str | None = None
    above: int = 0
    """Lines above the header."""
    parts: tuple["Table", ...] = ()
    """Where the path is a folder: its files, in the order of their names."""

    def line(self) -> str:
        """What it was taken for, as a line for a reader."""
        what = {"parquet": "Parquet", "jsonl": "JSON lines"}.get(self.kind, "")
        if self.dialect is not None:
            mark = self.dialect.quote
            quotes = "quotation marks as text" if mark is None else "quoted" if mark == '"' else f"quoted by {mark}"
            escape = ", backslashes before quotation marks" if self.dialect.escape else ""
            what = f"text parted by {self.dialect.delimiter!r}, {quotes}{escape}"
        parts = f", {len(self.parts)} parts" if self.parts else ""
        return f"{self.path.name}: {what}{parts}{f', {self.encoding}' if self.encoding else ''}"

    def chunks(self, wanted: Sequence[str | None]) -> Iterator[tuple[int, "Table", Chunk]]:
        """Number of the part, the part, and rows with the values of the `wanted` columns, null where there is no such column.

        A column wanted as None is one that no file has; "" is a name like any other: pandas writes its index under it.
        """
        for number, part in enumerate(self.parts or (self,)):
            for chunk in part._own_chunks(wanted):
                yield number, part, chunk

    def rows(self, wanted: Sequence[str | None]) -> Iterator[tuple["Table", Row]]:
        """The same row by row."""
        for _, part, chunk in self.chunks(wanted):
            for row in chunk.rows():
                yield part, row

    def _own_chunks(self, wanted: Sequence[str | None]) -> Iterator[Chunk]:
        if self.kind == "parquet":
            return parquet_chunks(self.path, [name if name in self.columns else None for name in wanted])
        blocks = read_blocks(self.path, self.encoding)
        if self.dialect is None:
            return json_chunks(blocks, wanted)
        places = [self.columns.index(name) if name in self.columns else -1 for name in wanted]
        return delimited_chunks(blocks, self.dialect, len(self.columns), places, self.above)


def open_table(path: Path, known: frozenset[str], reading: Reading = Reading()) -> Table:
    """Find out what a file is, which columns it has and how it is written.

    known: column names we could use; the delimiter that shows most of them is taken unless one is given.
    Raises DataError if the file is missing, empty, or not readable as any of the formats.
    """
    if path.is_dir():
        tables = tuple(open_table(part, known, reading) for part in parts.of_folder(path))
        for table in tables:
            if table.dialect is not None and set(table.columns) != set(tables[0].columns):
                raise DataError(
                    f"{table.path} has other columns than {tables[0].path.name} ({', '.join(table.columns)[:100]}): every part "
                    "needs the header, and nothing else may lie in the folder"
                )
        columns = tuple(dict.fromkeys(name for table in tables for name in table.columns))
        return Table(path, tables[0].kind, columns, tables[0].dialect, tables[0].encoding, parts=tables)
    head = _head(path)
    if head == b"PAR1":
        return Table(path, "parquet", parquet_columns(path))
    name = path.name.lower()
    for suffix in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    if name.endswith(".parquet"):
        if head.startswith(b"\x1f\x8b"):
            raise DataError(f"{path} is compressed by gzip: unpack it")
        raise DataError(f"{path} is not a Parquet file: write it again, or give it its right suffix")
    sample = _sample(path, reading.encoding)
    if not sample:
        raise DataError(f"{path} is empty: give a file with rows")
    first, decoded = sample[0]
    if name.endswith((".jsonl", ".ndjson", ".json")) or (decoded and JSON.match(first)):
        return Table(
            path, "jsonl", _json_columns(path, [text for text, whole in sample if whole]), None, reading.encoding
        )
    if not decoded:
        raise DataError(f'{path}: the header is not UTF-8: set data.encoding (for example "windows-1252")')
    rows = [text for text, whole in sample[1:] if whole]
    if (mark := SEPARATOR_LINE.match(first)) and rows:
        return replace(_delimited(path, rows[0], rows[1:], known, replace(reading, delimiter=mark[1])), above=1)
    return _delimited(path, first, rows, known, reading)


def _head(path: Path) -> bytes:
    if not path.exists():
        raise DataError(f"{path} is no file: check the path")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if head == b"PK\x03\x04":
        sheet = path.suffix.lower() in (".xlsx", ".ods")
        remedy = "save its sheet as CSV" if sheet else "unpack it and name the file it holds"
        raise DataError(f"{path} is a zip archive: {remedy}")
    if kind := next((kind for start, kind in OTHERS.items() if head.startswith(start)), None):
        raise DataError(f"{path} is {kind}")
    return head


def _sample(path: Path, encoding: str | None) -> list[tuple[str, bool]]:
    """The first lines that are not blank, and whether they could be decoded."""
    blocks = read_blocks(path, encoding)
    lines = (
        (text, place not in block.undecoded)
        for block in blocks
        for place, text in enumerate(block.text)
        if text and not text.isspace()
    )
    return list(islice(lines, SAMPLE_ROWS))


def _delimited(path: Path, header: str, sample: list[str], known: frozenset[str], reading: Reading) -> Table:
    delimiter = reading.delimiter
    if delimiter is not None and len(delimiter) != 1:
        raise DataError(f'data.delimiter {delimiter!r} is not one character: write for example "," or "\\t"')
    recbole = reading.recbole or path.name.lower().removesuffix(".gz").endswith((".inter", ".item"))
    headers = {mark: _header(header, mark, recbole) for mark in ((delimiter,) if delimiter else DELIMITERS)}
    mark = max(headers, key=lambda mark: (len(known & set(headers[mark])), len(headers[mark])))
    columns = headers[mark]
    twice = sorted({column for column in columns if columns.count(column) > 1 and column in known})
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} stands twice in the header; rename one")
    dialect = Dialect(mark, None if recbole else _quote(reading.quotes, sample, mark))
    if reading.escape == "none":
        dialect = replace(dialect, escapes=False)
    found = reading.escape == "auto" and dialect.quote is not None and finds_escapes(sample, dialect, len(columns))
    if found or reading.escape == "backslash":
        dialect = replace(dialect, escape="\\")
    return Table(path, "delimited", columns, dialect, reading.encoding)


def _quote(quotes: str, sample: list[str], delimiter: str) -> str | None:
    if quotes == "auto":
        return "'" if finds_single_quotes(sample, delimiter) else '"'
    return None if quotes == "none" else quotes


def _header(text: str, delimiter: str, recbole: bool) -> tuple[str, ...]:
    text = text.replace("\0", "")
    names = text.split(delimiter)
    if not recbole:
        with suppress(csv.Error):
            names = next(csv.reader([text], delimiter=delimiter), names)
    if len(names) > 1 and all(len(name) > 1 and name[0] == name[-1] == "'" for name in names):
        names = [name[1:-1] for name in names]
    return tuple((name.split(":")[0] if recbole else name).strip() for name in names)


def _json_columns(path: Path, sample: list[str]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for text in sample:
        record = parse_record(text.replace("\0", ""))
        if isinstance(record, dict):
            names.update(dict.fromkeys(str(name) for name in record))
    start = sample[0].strip() if sample else ""
    if names and start != "[":
        return tuple(names)
    if start.startswith("["):
        raise DataError(f"{path} is one JSON array: write an object per line (jq -c '.[]' makes it)")
    if start == "{":
        raise DataError(f"{path}: no line is a JSON object: write an object per line (jq -c . makes it)")
    raise DataError(f"{path}: no line is a JSON object or a Python dict, the first one being {start[:60]!r}")
