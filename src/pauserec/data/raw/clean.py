"""Cleaning of single values: ids, text, categories, times. Pure functions; each says what it did in a word or two."""

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

MISSING_WORDS = frozenset({"", "nan", "null", "none", "nat", "<na>"})
"""How tools write "no value" into text (compared in lower case)."""
EXACT_FLOAT = 2**53
"""Above this a float no longer holds every whole number."""
MAX_CATEGORIES = 32
MAX_ID_CHARS = 512
_REMOVED = re.compile(r"[\ud800-\udfff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((10**11, 10**9, "seconds"), (10**14, 10**6, "milliseconds"), (10**17, 10**3, "microseconds"))
_MAX_NANOSECONDS = 2**63 - 1

ID_MISSING = "missing id"
TIME_MISSING, TIME_NEGATIVE, TIME_FUTURE = "missing timestamp", "negative timestamp", "future timestamp"
TIME_BAD = "unreadable timestamp"
ORDER_BAD = "unreadable order"


class BadValueError(ValueError):
    """A value that cannot be used; the message is the class under which its row is quarantined."""


class Float32(float):
    """A number from a column of single precision."""


def clean_id(value: Any) -> tuple[str, str]:
    """An id as text, and the repair it needed ("" if none).

    Whole numbers are written in digits (1 and "1" are one id; 1.0 from a float column too); text stays as it is, so
    "01" and "1.0" are ids of their own. Raises BadValueError.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise BadValueError("id is not UTF-8") from None
    if isinstance(value, str):
        text = _REMOVED.sub("", value).strip()
        if text.lower() in MISSING_WORDS:
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


def clean_text(value: Any, max_chars: int) -> tuple[str, tuple[str, ...]]:
    """Text on one line, and the repairs it needed. Scripts, emoji, combining marks and would-be control tokens stay."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", ()
    repairs = []
    too_long = isinstance(value, int) and abs(value) >= 10**MAX_ID_CHARS
    if too_long or isinstance(value, bytes | bool) or not isinstance(value, str | int | float):
        return "", ("text of another type left out",)
    if not isinstance(value, str):
        value = str(value)
        repairs.append("number read as text")
    text = _REMOVED.sub("", value)
    if len(text) < len(value):
        repairs.append("control characters removed")
    joined = " ".join(text.split())
    if joined != text:
        repairs.append("whitespace normalised")
    if len(joined) > max_chars:
        joined = joined[:max_chars].rstrip()
        repairs.append("text cut")
    return joined, tuple(repairs)


def clean_categories(value: Any, separator: str, max_chars: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels from a list, the first path of a list of paths, or text parted by `separator`; and the repairs."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return (), ()
    if isinstance(value, str):
        entries: list[Any] = value.split(separator) if separator else [value]
    elif isinstance(value, list | tuple):
        paths = [entry for entry in value if isinstance(entry, list | tuple) and entry]
        entries = list(paths[0]) if paths else [entry for entry in value if not isinstance(entry, list | tuple)]
    else:
        return (), ("categories of another type left out",)
    labels: list[str] = []
    repaired = len(entries) > MAX_CATEGORIES
    for entry in entries[:MAX_CATEGORIES]:
        label, repairs = clean_text(entry, max_chars)
        # The blanks around a separator are its own; anything else that changed is a repair.
        repaired = repaired or any(repair != "whitespace normalised" for repair in repairs)
        if label:
            labels.append(label)
    return tuple(labels), ("categories cleaned",) if repaired else ()


def clean_time(value: Any, now: int) -> tuple[int, str]:
    """Nanoseconds since 1970 and the unit they came in: seconds, milliseconds, microseconds, nanoseconds or ISO 8601.

    A number's unit is told by its size (below 1e11 seconds, then 1e14 ms, 1e17 us). `now` is in nanoseconds; times more
    than a day after it are refused. ISO times without a zone are UTC. Raises BadValueError.
    """
    number: int | float
    value = _plain(value)
    if isinstance(value, str):
        value = value.strip()
        if value.isascii() and value.isdigit() and len(value) < 20:
            number = int(value)
        elif value.lower() in MISSING_WORDS:
            raise BadValueError(TIME_MISSING)
        else:
            try:
                number = float(value) if len(value) < 40 else math.nan
            except ValueError:
                return _in_range(_iso(value), now), "ISO 8601"
    elif value is None:
        raise BadValueError(TIME_MISSING)
    elif isinstance(value, datetime | date):
        return _in_range(_nanoseconds(value), now), "ISO 8601"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValueError(TIME_BAD)
    else:
        number = value
        if math.isnan(number):
            raise BadValueError(TIME_MISSING)
    if isinstance(number, float) and not math.isfinite(number):
        raise BadValueError(TIME_BAD)
    for limit, factor, unit in _UNITS:
        if abs(number) < limit:
            return _in_range(round(number * factor), now), unit
    return _in_range(int(number), now), "nanoseconds"


def clean_order(value: Any) -> int | float | None:
    """A position as a number, or None where there is no value. Raises BadValueError."""
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in MISSING_WORDS:
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


def _plain(value: Any) -> Any:
    """A database's decimal as a number of Python's own, whole where it is whole; anything else as it is."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)


def _iso(text: str) -> int:
    try:
        return _nanoseconds(datetime.fromisoformat(text))
    except ValueError:
        raise BadValueError(TIME_BAD) from None


def _nanoseconds(value: date) -> int:
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    gap = moment - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 10**9 + gap.microseconds * 1_000


def _in_range(nanoseconds: int, now: int) -> int:
    if nanoseconds < 0:
        raise BadValueError(TIME_NEGATIVE)
    if nanoseconds > now + 86_400 * 10**9:
        raise BadValueError(TIME_FUTURE)
    return nanoseconds
