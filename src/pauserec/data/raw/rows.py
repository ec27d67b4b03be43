"""Raw files as rows, one bad row never stopping the others: delimited text and JSON lines (plain or gzip), and Parquet.

Text is read line by line. A row that cannot be parsed comes out with its `problem`; only a file that cannot be used at
all raises DataError. Blank lines are no rows.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from polars.exceptions import PanicException, PolarsError

from pauserec.data.raw.clean import Float32
from pauserec.data.raw.json_lines import parse_record
from pauserec.data.raw.lines import Line, Lines, read_lines
from pauserec.errors import DataError
from pauserec.runs.files import read_table

DELIMITERS = ("\t", ",", ";", "|")
MAX_RECORD_LINES = 200
"""A quoted field may run over this many lines; more is taken for a quote that was never closed."""
SAMPLE_ROWS = 1000
"""Rows of a JSON-lines file that are looked at to learn its columns."""
GZIP = b"\x1f\x8b"
OTHERS = {
    b"BZh": "compressed by bzip2: unpack it, or use gzip",
    b"\xfd7zX": "compressed by xz: unpack it, or use gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it, or use gzip",
    b"ARRO": "an Arrow (Feather) file: write it as Parquet",
    b"Obj\x01": "an Avro file: write it as Parquet",
    b"ORC": "an ORC file: write it as Parquet",
    b"SQLi": "an SQLite database: write its table as CSV",
}
"""What other files begin with, and what to do with them."""
NOT_UTF8 = "line is not UTF-8"
SEVERAL_LINES = "quoted over several lines"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line (row number in Parquet), the values of the wanted columns, or the problem that left none."""

    line: int
    raw: str
    values: Sequence[Any] = ()
    problem: str = ""
    repair: str = ""


@dataclass(frozen=True)
class Table:
    """A raw file whose columns are known. `delimiter` is "" unless it is delimited text."""

    path: Path
    kind: Literal["delimited", "jsonl", "parquet"]
    columns: tuple[str, ...]
    delimiter: str = ""
    quoted: bool = True
    literals: bool = False
    """Whether a JSON line may also be a Python dict literal (Amazon's 2014 metadata)."""

    def rows(self, wanted: Sequence[str | None]) -> Iterator[Row]:
        """All rows with the values of the `wanted` columns, None where a row or the file has no such column.

        A column wanted as None is one that no file has; "" is a name like any other: pandas writes its index under it.
        """
        if self.kind == "parquet":
            return _parquet_rows(self.path, [name if name in self.columns else None for name in wanted])
        if self.kind == "jsonl":
            return _json_rows(self.path, wanted, self.literals)
        places = [self.columns.index(name) if name in self.columns else -1 for name in wanted]
        return _delimited_rows(self, places)


def open_table(
    path: Path, known: frozenset[str], delimiter: str | None = None, literals: bool = False, *, recbole: bool = False
) -> Table:
    """Find out what a file is and which columns it has.

    known: column names we could use; the delimiter that shows most of them is taken unless one is given. recbole: the
    header is RecBole's whatever the file's suffix.
    Raises DataError if the file is missing, empty, in UTF-16, or not readable as any of the formats.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file: check the path")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if head == b"PK\x03\x04":
        remedy = (
            "save its sheet as CSV"
            if path.suffix.lower() in (".xlsx", ".ods")
            else "unpack it and name the file it holds"
        )
        raise DataError(f"{path} is a zip archive: {remedy}")
    if kind := next((kind for start, kind in OTHERS.items() if head.startswith(start)), None):
        raise DataError(f"{path} is {kind}")
    if head == b"PAR1":
        return Table(path, "parquet", _parquet_columns(path))
    name = path.name.removesuffix(".gz").lower()
    if name.endswith(".parquet"):
        if head.startswith(GZIP):
            raise DataError(f"{path} is compressed by gzip: unpack it")
        raise DataError(f"{path} is not a Parquet file: write it again, or give it its right suffix")
    first = next((line for line in read_lines(path) if line.text is None or line.text.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty: give a file with rows")
    if name.endswith((".jsonl", ".ndjson", ".json")) or (first.text or "").lstrip().startswith("{"):
        columns, start = _json_columns(path, literals), (first.text or "").strip()
        if start == "[" or (start.startswith("[") and not columns):
            raise DataError(f"{path} is one JSON array: write an object per line (jq -c '.[]' makes it)")
        if not columns:
            raise DataError(f"{path}: no line is a JSON object: write an object per line (jq -c . makes it)")
        return Table(path, "jsonl", columns, literals=literals)
    if first.text is None:
        raise DataError(f"{path}: the header is not UTF-8; convert the file with iconv -t UTF-8")
    if "\r" in first.text.strip():
        raise DataError(f"{path}: lines end in a carriage return alone; convert them (tr '\\r' '\\n' makes it)")
    if delimiter is not None and len(delimiter) != 1:
        raise DataError(f'data.delimiter {delimiter!r} is not one character: write for example "," or "\\t"')
    recbole = recbole or name.endswith((".inter", ".item"))
    headers = {mark: _header(first.text, mark, recbole) for mark in ((delimiter,) if delimiter else DELIMITERS)}
    mark = max(headers, key=lambda mark: (len(known & set(headers[mark])), len(headers[mark])))
    columns = headers[mark]
    twice = sorted({column for column in columns if columns.count(column) > 1 and column in known})
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} stands twice in the header; rename one")
    return Table(path, "delimited", columns, mark, quoted=not recbole)


def _header(text: str, delimiter: str, recbole: bool) -> tuple[str, ...]:
    text = text.replace("\0", "")
    names = text.split(delimiter)
    if not recbole:
        with suppress(csv.Error):
            names = next(csv.reader([text], delimiter=delimiter), names)
    return tuple((name.split(":")[0] if recbole else name).strip() for name in names)


def _delimited_rows(table: Table, places: Sequence[int]) -> Iterator[Row]:
    # A title of 1 MB is data, not an attack on us; the csv module's limit is a process-wide 128 kB.
    csv.field_size_limit(2**31 - 1)
    lines = Lines(table.path)
    next((line for line in lines if line.text and line.text.strip()), None)
    width = len(table.columns)
    for line in lines:
        if line.text is None:
            yield Row(line.number, line.raw, problem=NOT_UTF8)
            continue
        text, repair = line.text, ""
        if not text or text.isspace():
            continue
        if "\0" in text:
            text, repair = text.replace("\0", ""), "NUL removed"
        quoted = table.quoted and '"' in text
        fields = _quoted_record(text, lines, table.delimiter, width) if quoted else text.split(table.delimiter)
        if fields is None:
            yield Row(line.number, line.raw, problem="bad quoting")
        elif len(fields) != width:
            yield Row(line.number, line.raw, problem="wrong number of fields")
        else:
            repair = repair or (SEVERAL_LINES if quoted and any("\n" in value for value in fields) else "")
            yield Row(line.number, line.raw, [fields[n] if n >= 0 else None for n in places], repair=repair)


def _quoted_record(first: str, lines: Lines, delimiter: str, width: int) -> list[str] | None:
    """Fields of a record that may run over several lines; None, and nothing swallowed, if its quotes do not close.

    Nor if each of three lines or more alone has just the fields of a row: then a stray quote met another further down.
    """
    taken: list[Line] = []

    def feed() -> Iterator[str]:
        yield first + "\n"
        for line in lines:
            taken.append(line)
            if line.text is None or len(taken) > MAX_RECORD_LINES:
                return
            yield line.text.replace("\0", "") + "\n"

    try:
        fields = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
    except csv.Error:
        fields = None
    rows = [first, *(line.text or "" for line in taken)]
    if len(rows) > 2 and width > 1 and all(len(row.split(delimiter)) == width for row in rows):
        fields = None
    if fields is None:
        lines.push_back(taken)
    return fields


def _json_rows(path: Path, wanted: Sequence[str | None], literals: bool) -> Iterator[Row]:
    for line in read_lines(path):
        if line.text is None:
            yield Row(line.number, line.raw, problem=NOT_UTF8)
            continue
        text, repair = line.text, ""
        if not text or text.isspace():
            continue
        if "\0" in text:
            text, repair = text.replace("\0", ""), "NUL removed"
        record = parse_record(text, literals)
        if isinstance(record, dict):
            yield Row(
                line.number, line.raw, [None if name is None else record.get(name) for name in wanted], repair=repair
            )
        else:
            problem = "bad or truncated JSON" if record is None else "JSON line is not an object"
            yield Row(line.number, line.raw, problem=problem)


def _json_columns(path: Path, literals: bool) -> tuple[str, ...]:
    names: dict[str, None] = {}
    seen = 0
    for line in read_lines(path):
        record = parse_record(line.text.replace("\0", ""), literals) if line.text else None
        if isinstance(record, dict):
            names.update(dict.fromkeys(str(name) for name in record))
            seen += 1
            if seen == SAMPLE_ROWS:
                break
    return tuple(names)


def _parquet_columns(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            return tuple(pl.read_parquet_schema(file))
    except (PolarsError, PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({_first_line(error)}): write it again") from None


def _parquet_rows(path: Path, wanted: Sequence[str | None]) -> Iterator[Row]:
    names = list(dict.fromkeys(name for name in wanted if name is not None))
    try:
        frame, odd = _within_calendar(read_table(path, names))
        places = [names.index(name) if name is not None else -1 for name in wanted]
        narrow = {place for place, kind in enumerate(frame.dtypes) if kind == pl.Float32}
        for number, values in enumerate(frame.iter_rows(), 1):
            if narrow:
                values = tuple(
                    Float32(value) if place in narrow and value is not None else value
                    for place, value in enumerate(values)
                )
            if number in odd:
                values = tuple(odd[number].get(name, value) for name, value in zip(names, values, strict=True))
            raw = "" if not names else repr(dict(zip(names, values, strict=True)))
            yield Row(number, raw, [values[n] if n >= 0 else None for n in places])
    except (PolarsError, PanicException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({_first_line(error)}): write it again") from None


def _within_calendar(frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, dict[str, str]]]:
    """The frame without the times that Python cannot hold (years 1 to 9999), and those as text, by row and column."""
    odd: dict[int, dict[str, str]] = {}
    for name, dtype in frame.schema.items():
        if dtype != pl.Date and not isinstance(dtype, pl.Datetime):
            continue
        within = frame[name].dt.year().is_between(1, 9999).fill_null(value=False)  # polars knows no year far out
        outside = ~within & frame[name].is_not_null()
        for row in outside.arg_true().to_list():
            odd.setdefault(row + 1, {})[name] = "not in years 1 to 9999"
        frame = frame.with_columns(pl.when(~outside).then(pl.col(name)).alias(name))
    return frame, odd


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
