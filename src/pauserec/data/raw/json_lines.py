"""One line of a JSON-lines file -> its value. Nothing in it is ever evaluated."""

import ast
import json
import re
import warnings
from contextlib import suppress
from typing import Any

import orjson

MAX_LITERAL_CHARS = 1_000_000
"""Longer Python literals are refused: ast needs many times their size."""
_LONG_INTEGER = re.compile(r"\d{19}")


def parse_record(text: str, literals: bool) -> Any:
    """The JSON value of a line; None if it has none. Whole numbers stay exact; NaN and lone surrogates may pass."""
    # orjson reads whole numbers of more than 64 bits as floats, and is the stricter parser.
    if not _LONG_INTEGER.search(text):
        with suppress(ValueError):
            return orjson.loads(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _parse_literal(text) if literals else None


def _parse_literal(text: str) -> Any:
    """A Python dict literal, read without evaluating anything; None if it is none."""
    if not text.lstrip().startswith("{") or len(text) > MAX_LITERAL_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
