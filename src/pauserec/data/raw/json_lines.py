"""JSON lines, or lines that are Python dicts -> rows in columns. Nothing in them is ever evaluated."""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import orjson
import polars as pl

from pauserec.data.raw.chunks import NOT_DECODED, NUL, Chunk, placed
from pauserec.data.raw.lines import Block

MAX_LITERAL_CHARS = 1_000_000
"""Longer Python literals are refused: ast needs many times their size."""
TRUNCATED, NO_OBJECT = "bad or truncated JSON", "JSON line is not an object"
_LONG_INTEGER = re.compile(r"\d{19}")
_AT_ONCE = 10_000
"""Lines parsed in one call."""


def json_chunks(blocks: Iterator[Block], wanted: Sequence[str | None]) -> Iterator[Chunk]:
    """Rows of the blocks, with the values under the `wanted` names."""
    for block in blocks:
        for start in range(0, len(block.text), _AT_ONCE):
            text = block.text.slice(start, _AT_ONCE)
            undecoded = {place - start for place in block.undecoded if start <= place < start + _AT_ONCE}
            yield _chunk(block.first + start, text, undecoded, wanted)


def _chunk(first: int, text: pl.Series, undecoded: set[int], wanted: Sequence[str | None]) -> Chunk:
    kept, line = placed(text, first)
    nul = kept.str.contains("\0", literal=True)
    lines = (kept.str.replace_all("\0", "", literal=True) if nul.any() else kept).to_list()
    bad = {place + first for place in undecoded}
    records = _all_objects(lines) or [parse_record(each) for each in lines]
    problem: list[str | None] = [
        NOT_DECODED
        if number in bad
        else None
        if isinstance(record, dict)
        else TRUNCATED
        if record is None
        else NO_OBJECT
        for record, number in zip(records, line.to_list() if bad else line, strict=True)
    ]
    good = [record if isinstance(record, dict) else {} for record in records]
    values = [None if name is None else [record.get(name) for record in good] for name in wanted]
    repair = [NUL if removed else None for removed in nul.to_list()] if nul.any() else None
    return Chunk.of(line, kept, values, problem if any(problem) else None, repair)


def _all_objects(lines: list[str]) -> list[Any] | None:
    """All lines in one parse, if each is a JSON object for certain; else null."""
    if not all(line.startswith("{") and line.endswith("}") for line in lines):
        return None
    text = ",".join(lines)
    if _LONG_INTEGER.search(text):
        return None
    try:
        records: list[Any] = orjson.loads(f"[{text}]")
    except ValueError:
        return None
    return records if len(records) == len(lines) else None


def parse_record(text: str) -> Any:
    """The JSON value of a line, or the Python dict that it is; None if it is neither.

    Whole numbers stay exact; NaN and lone surrogates may pass.
    """
    # orjson reads whole numbers of more than 64 bits as floats, and is the stricter parser.
    if not _LONG_INTEGER.search(text):
        with suppress(ValueError):
            return orjson.loads(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return parse_literal(text, "{")


def parse_literal(text: str, opening: str) -> Any:
    """A Python literal that begins with `opening`, read without evaluating anything; None if it is none."""
    if not text.lstrip().startswith(opening) or len(text) > MAX_LITERAL_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
