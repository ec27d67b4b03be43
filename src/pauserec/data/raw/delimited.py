"""Delimited text -> rows in columns. Quotation marks are read by the row, in whichever dialect makes sense of it.

A line without quotation marks, or with fields quoted as a whole, is split at the delimiter, all lines at once. What is left
goes to Python's csv module: doubled quotation marks, fields over several lines, backslashes before quotation marks, and
quotation marks that are text.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from pauserec.data.raw.chunks import NOT_DECODED, NUL, Chunk, placed
from pauserec.data.raw.lines import Block

MAX_RECORD_LINES = 200
"""A quoted field may run over this many lines; more is taken for a quote that was never closed."""
SEVERAL_LINES = "quoted over several lines"
BACKSLASHES = "backslash before a quotation mark read as an escape"
PLAIN_QUOTES = "quotation marks read as text"
BAD_QUOTING, WRONG_WIDTH = "bad quoting", "wrong number of fields"


@dataclass(frozen=True)
class Dialect:
    """How delimited text is written. quote: the quotation mark, or null where it is text. escape: a backslash, or null."""

    delimiter: str
    quote: str | None = '"'
    escape: str | None = None
    escapes: bool = True
    """Whether a row may have backslashes before quotation marks although the file was not found to have them."""


class _Record(NamedTuple):
    """fields: null where the row has a problem. taken: lines that it runs over after its first."""

    fields: list[str] | None
    taken: int = 0
    note: str | None = None


def finds_escapes(sample: Sequence[str], dialect: Dialect, width: int) -> bool:
    """Whether more of these lines read as rows with backslashes before quotation marks than with doubled ones."""
    lines = [line for line in sample if f"\\{dialect.quote}" in line]
    read = [
        sum(len(_one_line(line, dialect, escape=escape) or ()) == width for line in lines) for escape in (True, False)
    ]
    return read[0] > read[1]


def finds_single_quotes(sample: Sequence[str], delimiter: str) -> bool:
    """Whether most of these lines have fields in single quotation marks, and none a double one."""
    fields = [line.split(delimiter) for line in sample]
    around = [any(len(each) > 1 and each[0] == each[-1] == "'" for each in row) for row in fields]
    return bool(around) and 2 * sum(around) > len(around) and not any('"' in line for line in sample)


def delimited_chunks(
    blocks: Iterator[Block], dialect: Dialect, width: int, places: Sequence[int], above: int = 0
) -> Iterator[Chunk]:
    """Rows after the header, with the fields at `places` (-1: no such field).

    width: fields of a row. above: lines before the header.
    """
    # A title of 1 MB is data, not an attack on us; the csv module's limit is a process-wide 128 kB.
    csv.field_size_limit(2**31 - 1)
    held: Block | None = None
    header = True
    for block in blocks:
        current = block if held is None else _joined(held, block)
        if header:
            skipped = _after_header(current, above)
            if skipped is None:
                continue
            current, header = skipped, False
        limit = max(0, len(current.text) - MAX_RECORD_LINES - 1) if dialect.quote else len(current.text)
        held = None
        if limit:
            chunk, end = _parse(current, dialect, width, places, limit)
            yield chunk
            held = _from(current, end)
        elif len(current.text):
            held = current
    if held is not None and len(held.text):
        yield _parse(held, dialect, width, places, len(held.text))[0]


def _after_header(block: Block, above: int) -> Block | None:
    """What follows the header, the first line that is not blank but for those above it; null where there is none."""
    _, line = placed(block.text, block.first)
    for number in line.slice(above, 1):
        return _from(block, number - block.first + 1)
    return None


def _from(block: Block, start: int) -> Block:
    undecoded = frozenset(place - start for place in block.undecoded if place >= start)
    return Block(block.first + start, block.text.slice(start), undecoded)


def _joined(held: Block, block: Block) -> Block:
    size = len(held.text)
    moved = frozenset(place + size for place in block.undecoded)
    return Block(held.first, pl.concat([held.text, block.text], rechunk=False), held.undecoded | moved)


def _parse(block: Block, dialect: Dialect, width: int, places: Sequence[int], limit: int) -> tuple[Chunk, int]:
    """Rows that begin before `limit`, and the place of the line after them."""
    raw, line = placed(block.text.head(limit), block.first)
    text, nul = raw, raw.str.contains("\0", literal=True)
    if nul.any():
        text = raw.str.replace_all("\0", "", literal=True)
    bad = pl.Series([block.first + place for place in block.undecoded], dtype=pl.Int64)
    undecoded = line.is_in(bad.implode()) if len(bad) else pl.repeat(value=False, n=len(line), eager=True)
    right = text.str.count_matches(dialect.delimiter, literal=True) == width - 1
    fields = text.str.split_exact(dialect.delimiter, width - 1).struct.unnest().get_columns()
    simple = ~undecoded
    if dialect.quote:
        quoted = text.str.contains(dialect.quote, literal=True) & ~undecoded
        if quoted.any():
            fields, whole = _unquoted(fields, quoted, dialect.quote)
            simple &= ~quoted | (whole & right)
    problem = pl.select(
        pl.when(undecoded).then(pl.lit(NOT_DECODED)).when(simple & ~right).then(pl.lit(WRONG_WIDTH)).alias("problem")
    ).to_series()
    repair = pl.select(pl.when(nul & ~undecoded).then(pl.lit(NUL)).alias("repair")).to_series()
    frame = pl.DataFrame(
        [
            line.alias("line"),
            raw.alias("raw"),
            *(_field(fields, place, len(line)).alias(str(n)) for n, place in enumerate(places)),
            problem,
            repair,
        ]
    )
    end = limit
    hard = ~simple & ~undecoded
    if hard.any():
        records, within, end = _hard(block, line.filter(hard).to_list(), dialect, width, places, limit)
        covered = pl.Series(sorted(within), dtype=pl.Int64)
        frame = frame.filter(~hard & ~line.is_in(covered.implode()))
        mended = frame.clear() if records.is_empty() else records.cast(frame.schema)
        frame = pl.concat([frame, mended.select(frame.columns)]).sort("line")
    values = [frame[str(n)] if place >= 0 else None for n, place in enumerate(places)]
    return Chunk(frame["line"], frame["raw"], tuple(values), frame["problem"], frame["repair"]), end


def _field(fields: list[pl.Series], place: int, size: int) -> pl.Series:
    if place < 0:
        return pl.repeat(None, size, dtype=pl.String, eager=True)
    return fields[place]


def _unquoted(fields: list[pl.Series], quoted: pl.Series, quote: str) -> tuple[list[pl.Series], pl.Series]:
    """Fields without the quotation marks around a whole one, and whether a line has no others."""
    found: list[pl.Series] = []
    whole = pl.repeat(value=True, n=len(quoted), eager=True)
    for field in fields:
        marks = field.str.count_matches(quote, literal=True).fill_null(0)
        around = (marks == 2) & field.str.starts_with(quote) & field.str.ends_with(quote)
        around = around.fill_null(value=False)
        inner = field.str.strip_prefix(quote).str.strip_suffix(quote)
        found.append(pl.select(pl.when(around).then(inner).otherwise(field)).to_series())
        whole &= around | (marks == 0)
    return found, whole


def _hard(
    block: Block, numbers: list[int], dialect: Dialect, width: int, places: Sequence[int], limit: int
) -> tuple[pl.DataFrame, set[int], int]:
    """Rows whose quotation marks need a parser, the lines that they run over, and the place after the last of them."""
    rows: list[dict[str, object]] = []
    within: set[int] = set()
    end = limit
    for number in numbers:
        if number in within:
            continue
        start = number - block.first
        raw = str(block.text[start])
        record = _record(block, start, dialect, width)
        within.update(range(number + 1, number + 1 + record.taken))
        end = max(end, start + 1 + record.taken)
        problem = None
        if record.fields is None or len(record.fields) != width:
            problem = BAD_QUOTING if record.fields is None else WRONG_WIDTH
        kept = record.fields if problem is None and record.fields is not None else None
        rows.append(
            {"line": number, "raw": raw}
            | {str(n): kept[place] if kept and place >= 0 else None for n, place in enumerate(places)}
            | {"problem": problem, "repair": NUL if "\0" in raw else record.note}
        )
    names = ["line", "raw", *map(str, range(len(places))), "problem", "repair"]
    schema = {name: pl.Int64 if name == "line" else pl.String for name in names}
    return pl.DataFrame(rows, schema=schema), within, end


def _record(block: Block, start: int, dialect: Dialect, width: int) -> _Record:
    """A row with quotation marks in it, in the first reading that gives it its fields."""
    first = str(block.text[start]).replace("\0", "")
    quote = dialect.quote or ""
    escaped = _one_line(first, dialect, escape=True) if f"\\{quote}" in first and dialect.escapes else None
    if dialect.escape is not None and escaped is not None and len(escaped) == width:
        return _Record(escaped)
    is_open, doubled = False, None
    try:
        doubled = _fields([first], dialect)
    except _OpenError:
        is_open = True
    if doubled is not None and len(doubled) == width:
        return _Record(doubled)
    if escaped is not None and len(escaped) == width:
        return _Record(escaped, note=BACKSLASHES)
    if is_open and (several := _several_lines(block, start, first, dialect, width)) is not None:
        return several
    parts = first.split(dialect.delimiter)
    if len(parts) == width and not any(part.count(quote) % 2 for part in parts):
        return _Record(parts, note=PLAIN_QUOTES)
    return _Record(doubled)


def _one_line(text: str, dialect: Dialect, *, escape: bool) -> list[str] | None:
    try:
        return _fields([text], dialect, escape=escape)
    except _OpenError:
        return None


def _several_lines(block: Block, start: int, first: str, dialect: Dialect, width: int) -> _Record | None:
    """A record that runs over several lines; null, and nothing swallowed, if its quotation marks do not close.

    Nor if each of three lines or more alone has just the fields of a row: then a stray mark met another further down.
    """
    lines = [first]
    for place in range(start + 1, min(start + 1 + MAX_RECORD_LINES, len(block.text))):
        if place in block.undecoded:
            return None
        lines.append(str(block.text[place]).replace("\0", ""))
        if (dialect.quote or "") not in lines[-1]:
            continue
        try:
            fields = _fields(lines, dialect, escape=dialect.escape is not None)
        except _OpenError:
            continue
        if fields is None:
            return None
        if len(lines) > 2 and width > 1 and all(len(line.split(dialect.delimiter)) == width for line in lines):
            return None
        note = SEVERAL_LINES if any("\n" in value for value in fields) else None
        return _Record(fields, len(lines) - 1, note)
    return None


def _fields(lines: list[str], dialect: Dialect, *, escape: bool = False) -> list[str] | None:
    """Fields of the one record that these lines are; null if they are none. Raises _OpenError if it goes on."""
    quote = dialect.quote or ""
    if escape:  # a backslash before anything else is text: a field that is no value is \\N
        lines = [line.replace("\\\\", "\0").replace(f"\\{quote}", quote + quote) for line in lines]
    try:
        reader = csv.reader(
            (line + "\n" for line in lines), delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True
        )
        records = list(reader)
    except csv.Error as error:
        if str(error) == "unexpected end of data":
            raise _OpenError from None
        return None
    if len(records) != 1:
        return None
    return [field.replace("\0", "\\") for field in records[0]] if escape else records[0]


class _OpenError(Exception):
    """A quotation mark is not closed yet."""
