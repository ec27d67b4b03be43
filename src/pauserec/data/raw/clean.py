"""Cleaning of single values: ids, text, categories, numbers. Pure functions; each says what it did in a word or two."""

import html
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

import orjson
import polars as pl

from pauserec.config import IdRule
from pauserec.data.raw.json_lines import parse_literal

EXACT_FLOAT = 2**53
"""Above this a float no longer holds every whole number."""
MAX_CATEGORIES = 32
MAX_ID_CHARS = 512
_REMOVED = re.compile(r"[\ud800-\udfff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NANOSECONDS = 2**63 - 1
Markup = Literal["clean", "keep"]
_SEPARATORS = (" > ", "|")
"""Separators of labels that are found without a setting."""
_ELEMENTS = (
    "a|abbr|b|big|blockquote|body|br|center|code|dd|del|div|dl|dt|em|font|form|h[1-6]|head|hr|html|i|iframe|img|input|ins|"
    "label|li|link|meta|nobr|ol|option|p|pre|script|select|small|span|strike|strong|style|sub|sup|table|tbody|td|textarea|"
    "th|thead|title|tr|tt|u|ul|wbr"
)
_HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_ELEMENTS})(?:\s[^<>]*)?/?>|<!doctype[^<>]*>", re.IGNORECASE)
_ZONE = re.compile(r" ([+-]\d\d:?\d\d)$")
"""A zone behind a blank, as databases write it."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_PRINTED = re.compile(rf"\[\s*(?:{_QUOTED.pattern})(?:\s+(?:{_QUOTED.pattern}))+\s*\]")
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z][a-z0-9]*);", re.IGNORECASE)

ID_MISSING = "missing id"
TIME_MISSING, TIME_NEGATIVE, TIME_FUTURE = "missing timestamp", "negative timestamp", "future timestamp"
TIME_BAD = "unreadable timestamp"
ORDER_BAD = "unreadable order"
MARKUP = "HTML removed"


class BadValueError(ValueError):
    """A value that cannot be used; the message is the class under which its row is quarantined."""


class Float32(float):
    """A number from a column of single precision."""


def clean_id(value: Any, missing: frozenset[str]) -> tuple[str, str]:
    """An id as text, and the repair it needed ("" if none).

    Whole numbers are written in digits (1 and "1" are one id; 1.0 from a float column too); text stays as it is, so
    "01" and "1.0" are ids of their own. missing: words for "no value", in lower case. Raises BadValueError.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise BadValueError("id is not UTF-8") from None
    if isinstance(value, str):
        text = _REMOVED.sub("", value).strip()
        if text.lower() in missing:
            raise BadValueError(ID_MISSING)
        if len(text) > MAX_ID_CHARS:
            raise BadValueError(f"id longer than {MAX_ID_CHARS} characters")
        return text, "" if text == value else "id trimmed"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadValueError(ID_MISSING)
    if isinstance(value, bool):
        raise BadValueError("id is neither text nor a whole number")
    if isinstance(value, int) and abs(value) < 10**MAX_ID_CHARS:
        return str(value), ""
    if isinstance(value, float) and value.is_integer():
        bits = 24 if isinstance(value, Float32) else 53
        if abs(value) >= 2**bits:  # as large, the next number may have been written as this one
            raise BadValueError(f"float id of 2^{bits} or more has lost digits")
        return str(int(value)), "float id written as a whole number"
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value)), "decimal id written as a whole number"
    raise BadValueError("id is neither text nor a whole number")


def respelt(ids: pl.Series, rules: Sequence[IdRule]) -> pl.Series:
    """Ids in the one spelling that `data.ids` gives them: without ".0", leading zeros, capital letters, or blanks."""
    for rule in rules:
        if rule == "decimal":
            ids = ids.str.replace(r"^(-?[0-9]+)\.0+$", "${1}")
        elif rule == "zeros":
            ids = ids.str.replace(r"^0+([0-9])", "${1}")
        elif rule == "case":
            ids = ids.str.to_lowercase()
        else:
            ids = ids.str.replace_all(r"\s+", "")
    return ids


def clean_text(value: Any, max_chars: int, missing: frozenset[str], markup: Markup) -> tuple[str, tuple[str, ...]]:
    """Text on one line, and the repairs it needed. Scripts, emoji, combining marks and would-be control tokens stay.

    missing: words for "no value", in lower case: such a text is empty. markup: whether HTML elements and entities go.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", ()
    repairs = []
    too_long = isinstance(value, int) and abs(value) >= 10**MAX_ID_CHARS
    if too_long or isinstance(value, bytes | bool) or not isinstance(value, str | int | float):
        return "", ("text of another type left out",)
    if not isinstance(value, str):
        value = str(value)
        repairs.append("number read as text")
    if markup == "clean":
        plain = unmarked(value)
        if plain != value:
            repairs.append(MARKUP)
            value = plain
    text = _REMOVED.sub("", value)
    if len(text) < len(value):
        repairs.append("control characters removed")
    joined = " ".join(text.split())
    if joined != text:
        repairs.append("whitespace normalised")
    if joined and joined.lower() in missing:
        return "", (f'no value, written "{joined}"',)
    if len(joined) > max_chars:
        joined = joined[:max_chars].rstrip()
        repairs.append("text cut")
    return joined, tuple(repairs)


def unmarked(text: str) -> str:
    """Text without HTML elements, and with its entities resolved. Other marks in angle brackets are text."""
    if "<" in text:
        bare = _TAG.sub(" ", _HIDDEN.sub(" ", text))
        text = bare.strip() if bare != text else text
    return html.unescape(text) if _ENTITY.search(text) else text


def clean_categories(
    value: Any, separator: str, max_chars: int, missing: frozenset[str], markup: Markup
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels from a list, the first path of a list of paths, a list written as text, or text parted by `separator`.

    And the repairs. separator: "" parts nothing; the default also stands for others (`_SEPARATORS`) where it is not met.
    """
    marked = False
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return (), ()
    if isinstance(value, str):
        plain = unmarked(value) if markup == "clean" else value
        marked = plain != value
        value = _list_in(plain, separator)
    if not isinstance(value, list | tuple):
        return (), ("categories of another type left out",)
    paths = [entry for entry in value if isinstance(entry, list | tuple) and entry]
    entries = list(paths[0]) if paths else [entry for entry in value if not isinstance(entry, list | tuple)]
    entries = [entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
    labels: list[str] = []
    told: list[str] = [MARKUP] if marked else []
    told += ["categories cleaned"] if len(entries) > MAX_CATEGORIES else []
    for entry in entries[:MAX_CATEGORIES]:
        label, repairs = clean_text(entry, max_chars, missing, markup)
        # The blanks around a separator are its own; anything else that changed is a repair.
        told += [
            repair if repair == MARKUP or repair.startswith("no value") else "categories cleaned"
            for repair in repairs
            if repair != "whitespace normalised"
        ]
        if label:
            labels.append(label)
    return tuple(labels), tuple(dict.fromkeys(told))


def _list_in(text: str, separator: str) -> list[Any] | tuple[Any, ...]:
    """A list written as text, or the parts of a text."""
    bare = text.strip()
    if bare[:1] in ("[", "(") and bare[-1:] in ("]", ")"):
        if _PRINTED.fullmatch(bare):  # as numpy prints a list
            return [entry[1:-1] for entry in _QUOTED.findall(bare)]
        with suppress(ValueError):
            found = orjson.loads(bare)
            if isinstance(found, list):
                return found
        found = parse_literal(re.sub(r"\bnan\b", "None", bare), bare[0])
        if isinstance(found, list | tuple):
            return found
    if separator == _SEPARATORS[0]:
        separator = next((mark for mark in _SEPARATORS if mark in text), separator)
    return text.split(separator) if separator else [text]


def plain_number(value: Any, missing: frozenset[str]) -> int | float | str | datetime:
    """A time as it is written: a number, a moment of a typed column, or text that is no number. Raises BadValueError."""
    value = _plain(value)
    if isinstance(value, str):
        text = value.strip()
        if text.isascii() and text.isdigit() and len(text) < 20:
            return int(text)
        if text.lower() in missing:
            raise BadValueError(TIME_MISSING)
        try:
            value = float(text) if len(text) < 40 else math.inf
        except ValueError:
            return text
        if math.isnan(value):
            raise BadValueError(TIME_BAD)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadValueError(TIME_MISSING)
    if isinstance(value, datetime | date):
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadValueError(TIME_BAD)
    return value


def clean_order(value: Any, missing: frozenset[str]) -> int | float | None:
    """A position as a number, or None where there is no value. Raises BadValueError."""
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in missing:
            return None
        try:
            value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else float(text)
        except ValueError:
            raise BadValueError(ORDER_BAD) from None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer() and abs(value) <= EXACT_FLOAT:
            return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_NANOSECONDS:
        raise BadValueError(ORDER_BAD)
    return value


def iso(text: str) -> int | None:
    """Nanoseconds since 1970 of an ISO 8601 time, UTC unless it names a zone; None if it is none."""
    for word in (" UTC", " GMT"):
        text = text.removesuffix(word)
    text = _ZONE.sub(r"\1", text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    gap = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 10**9 + gap.microseconds * 1_000


def _plain(value: Any) -> Any:
    """A database's decimal as a number of Python's own, whole where it is whole; anything else as it is."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
