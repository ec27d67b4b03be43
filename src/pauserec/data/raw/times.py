"""A column of times, judged as a whole: what its values are written in, and the moment that each of them is.

The unit of numbers is that in which most of them fit. It holds for the whole column: a value that does not fit it is left out,
never read in another unit.
"""

import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
import polars as pl

from pauserec.config import TimeConfig
from pauserec.data.raw.chunks import SPACES
from pauserec.data.raw.clean import (
    TIME_BAD,
    TIME_FUTURE,
    TIME_MISSING,
    TIME_NEGATIVE,
    BadValueError,
    iso,
    plain_number,
)
from pauserec.data.raw.columns import Values, numbers, python_values

SECOND, DAY = 10**9, 86_400 * 10**9
"""Nanoseconds."""
FIRST_DAY = 7305
"""1990-01-01, in days since 1970: what reads as earlier is a position or a date in digits, right in its order alone."""
FACTORS = {
    "seconds": SECOND,
    "milliseconds": 10**6,
    "microseconds": 10**3,
    "nanoseconds": 1,
    "days": DAY,
    "relative": SECOND,
}
_BANDS = (("seconds", 10**11), ("milliseconds", 10**14), ("microseconds", 10**17))
_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?)?( ?UTC| ?GMT|Z)?$"
_FORMS = tuple(
    f"{day}{clock}"
    for day in (
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d.%m.%Y",
        "%d-%m-%Y",
        "%m-%d-%Y",
        "%Y/%m/%d",
        "%Y.%m.%d",
        "%d %b %Y",
        "%b %d, %Y",
    )
    for clock in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %I:%M:%S %p")
)
"""Forms that are tried on what no other rule reads: all of the column's such values in one form."""
_CTIME = ("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Z %Y", "%a %b %d %H:%M:%S %Y")
SINGLE = "timestamps in single precision"


@dataclass(frozen=True)
class Clock:
    """What was decided of a column of times, and the evidence.

    unit: a name of FACTORS, "text", or "" without a value. fit: share of the values that could be read in it. first, last:
    Nanoseconds since 1970 of the times read. hint: what a person could say of them, "" if nothing.
    """

    unit: str = ""
    fit: float = 1.0
    first: int | None = None
    last: int | None = None
    hint: str = ""
    unread: str = ""

    def line(self) -> str:
        """As a line for a reader."""
        if not self.unit or self.first is None or self.last is None:
            return "times: none"
        what = {"text": "written as dates", "relative": "relative to a beginning"}.get(self.unit, f"in {self.unit}")
        if self.last >= FIRST_DAY * DAY and self.unit != "relative":
            span = f"{_date(self.first)} to {_date(self.last)}"
        else:
            span = "an order without dates"
        return f"times {what} ({self.fit:.1%} of the values fit), {span}{'; ' * bool(self.hint)}{self.hint}"


def parse_times(values: Values, size: int, missing: frozenset[str], form: str | None = None) -> pl.DataFrame:
    """Numbers and moments of one chunk; the unit of numbers is decided later.

    Columns: whole (Int64), real (Float64), moment (Int64, nanoseconds since 1970), time_text (what could not be read yet),
    time_problem.
    """
    if isinstance(values, pl.Series) and (values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime)):
        return _frame(size, moment=_epochs(values))
    if isinstance(values, pl.Series) and isinstance(values.dtype, pl.Duration):
        return _frame(size, whole=values.dt.total_microseconds())
    if form is not None and values is not None:
        return _by_form(values, size, form)
    plain = numbers(values, size)
    frame = _frame(size, whole=plain.whole, real=plain.real)
    if not plain.odd:
        return frame
    rows = [row for row, _ in plain.odd]
    found = _odd([value for _, value in plain.odd], missing)
    return frame.with_columns(frame[name].scatter(rows, found[name]) for name in found.columns)


def _frame(size: int, **known: pl.Series) -> pl.DataFrame:
    kinds: dict[str, Any] = {
        "whole": pl.Int64,
        "real": pl.Float64,
        "moment": pl.Int64,
        "time_text": pl.String,
        "time_problem": pl.String,
    }
    empty = {name: pl.repeat(None, size, dtype=kind, eager=True) for name, kind in kinds.items()}
    return pl.DataFrame(empty | {name: column.cast(kinds[name]) for name, column in known.items()})


def _epochs(column: pl.Series) -> pl.Series:
    """Nanoseconds since 1970, to the microsecond; what is too far off for them is as far as they go."""
    far = 2**63 // 1000 - 1
    return column.cast(pl.Datetime("us")).dt.epoch("us").clip(-far, far) * 1000


def _by_form(values: Values, size: int, form: str) -> pl.DataFrame:
    written = [None if value is None else str(value) for value in python_values(values, size)]
    text = pl.Series(written, dtype=pl.String)
    moments = _formed(text.str.strip_chars(SPACES), form)
    bad = pl.select(pl.when(moments.is_null()).then(pl.lit(TIME_BAD))).to_series()
    return _frame(size, moment=moments, time_problem=bad)


def _formed(text: pl.Series, form: str) -> pl.Series:
    try:
        return _epochs(text.str.to_datetime(form, strict=False, time_unit="us", ambiguous="earliest"))
    except pl.exceptions.PolarsError:
        return pl.repeat(None, len(text), dtype=pl.Int64, eager=True)


def _odd(values: list[Any], missing: frozenset[str]) -> pl.DataFrame:
    """Values that are no plain numbers, by their distinct ones."""
    values = [_without_surrogates(value) for value in values]
    texts = pl.Series([value if isinstance(value, str) else None for value in values], dtype=pl.String, strict=False)
    stripped = texts.str.strip_chars(SPACES)
    by_iso = stripped.str.contains(_ISO).fill_null(value=False)
    bare = (
        pl.select(pl.when(by_iso).then(stripped)).to_series().str.replace(r"( ?UTC| ?GMT|Z)$", "").str.replace("T", " ")
    )
    moments = _formed(bare, "%Y-%m-%d %H:%M:%S%.f").fill_null(_formed(bare, "%Y-%m-%d"))
    frame = _frame(len(values), moment=moments)
    memo: dict[Any, dict[str, Any]] = {}
    rows, columns = [], {name: [] for name in frame.columns}  # type: ignore[var-annotated]
    for row, value in enumerate(values):
        if moments[row] is not None:
            continue
        key = value if isinstance(value, str) else (type(value), repr(value))
        if key not in memo:
            memo[key] = _one(value, missing)
        rows.append(row)
        for name, column in columns.items():
            column.append(memo[key].get(name))
    if not rows:
        return frame
    return frame.with_columns(
        frame[name].scatter(rows, pl.Series(column, dtype=frame[name].dtype, strict=False))
        for name, column in columns.items()
    )


def _without_surrogates(value: Any) -> Any:
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _one(value: Any, missing: frozenset[str]) -> dict[str, Any]:
    """One value by every rule that needs no other value: a number, a moment, a text to look at later, or a problem."""
    try:
        number = plain_number(value, missing)
    except BadValueError as bad:
        return {"time_problem": str(bad)}
    if isinstance(number, str):
        for read in (iso, _ctime, _mail):
            moment = read(number)
            if moment is not None:
                return {"moment": max(-(2**63) + 1, min(moment, 2**63 - 1))}
        return {"time_text": number}
    if isinstance(number, datetime):
        return {"moment": int((number - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000}
    if isinstance(number, int):
        return (
            {"whole": number} if abs(number) < 2**63 else {"time_problem": TIME_FUTURE if number > 0 else TIME_NEGATIVE}
        )
    return {"real": number}


def _ctime(text: str) -> int | None:
    for form in _CTIME:
        try:
            moment = datetime.strptime(text, form)
        except ValueError:
            continue
        return iso((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat())
    return None


def _mail(text: str) -> int | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return iso((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat())


def decide(parsed: pl.DataFrame, config: TimeConfig, *, relative: bool, single: bool) -> tuple[pl.DataFrame, Clock]:
    """The columns time (Int64, nanoseconds) and time_problem, and what was decided.

    parsed: of all chunks, as `parse_times` gives them. relative: numbers are durations. single: of single precision.
    """
    parsed = _texts(parsed)
    is_number = parsed["whole"].is_not_null() | parsed["real"].is_not_null()
    unit = config.unit if config.unit != "auto" else "relative" if relative else _unit(parsed)
    now = time.time_ns() + DAY
    moments, problems = parsed["moment"], parsed["time_problem"]
    if is_number.any():
        factor = 1000 if relative and config.unit == "auto" else FACTORS[unit]
        zero = 0 if unit == "relative" else iso(config.zero) or 0
        moments = moments.fill_null(_scaled(parsed["whole"], parsed["real"], factor, zero))
    bad = pl.select(
        pl.when(problems.is_not_null())
        .then(problems)
        .when(moments.is_null())
        .then(pl.lit(TIME_MISSING))
        .when(moments < 0)
        .then(pl.lit(TIME_NEGATIVE))
        .when(moments > now)
        .then(pl.lit(TIME_FUTURE))
        .alias("time_problem")
    ).to_series()
    good = moments.filter(bad.is_null())
    told = len(bad) - int((bad == TIME_MISSING).sum() or 0)
    clock = Clock(
        unit if is_number.sum() * 2 >= max(1, told) else "text",
        len(good) / max(1, told),
        good.min(),  # type: ignore[arg-type]
        good.max(),  # type: ignore[arg-type]
        _hint(parsed["whole"], unit) if config == TimeConfig() else "",
        _unread(parsed["time_text"], bad),
    )
    if single:
        _warn_of_single(parsed["real"])
    when = pl.select(pl.when(bad.is_null()).then(moments).alias("time")).to_series()
    frame = pl.DataFrame([when, bad, is_number.alias("is_number")])
    return frame, clock


def _texts(parsed: pl.DataFrame) -> pl.DataFrame:
    """Read what is left in the one form that fits it best; two that fit alike, and differ, fit not at all."""
    left = parsed["time_text"]
    distinct = left.drop_nulls().unique()
    if distinct.is_empty():
        return parsed
    best: tuple[int, pl.Series] = (0, _formed(distinct, "%Y"))
    rivals = False
    for form in _FORMS:
        found = _formed(distinct, form)
        number = int(found.is_not_null().sum())
        if number > best[0]:
            best, rivals = (number, found), False
        elif number and number == best[0] and not found.equals(best[1]):
            rivals = True
    moments = best[1] if best[0] and not rivals else pl.repeat(None, len(distinct), dtype=pl.Int64, eager=True)
    known = pl.DataFrame({"time_text": distinct, "late": moments})
    joined = parsed.join(known, on="time_text", how="left", maintain_order="left")
    unreadable = pl.col("time_text").is_not_null() & pl.col("late").is_null()
    return joined.with_columns(
        pl.coalesce("moment", "late").alias("moment"),
        pl.when(unreadable).then(pl.lit(TIME_BAD)).otherwise("time_problem").alias("time_problem"),
    ).drop("late")


def _unit(parsed: pl.DataFrame) -> str:
    size = pl.coalesce(pl.col("whole").abs().cast(pl.Float64), pl.col("real").abs())
    sizes = parsed.select(size.alias("size"))["size"].drop_nulls()
    if sizes.is_empty():
        return "seconds"
    days = time.time_ns() // DAY + 1
    if len(sizes) >= 30 and sizes.min() >= FIRST_DAY and sizes.max() <= days and sizes.n_unique() >= 30:  # type: ignore[operator]
        return "days"
    counts = {name: 0 for name, _ in _BANDS} | {"nanoseconds": 0}
    below = 0
    for name, limit in _BANDS:
        upto = int((sizes < limit).sum())
        counts[name], below = upto - below, upto
    counts["nanoseconds"] = len(sizes) - below
    return max(counts, key=lambda name: counts[name])


def _scaled(whole: pl.Series, real: pl.Series, factor: int, zero: int) -> pl.Series:
    """Nanoseconds; what is too large for them is as large as they go."""
    far = (2**63 - 1 - abs(zero)) // factor
    exact = whole.clip(-far, far) * factor
    if real.is_not_null().any():
        rounded = (real * factor).round(mode="half_to_even").clip(-9.2e18, 9.2e18).cast(pl.Int64)
        exact = exact.fill_null(rounded)
    return exact + zero if zero else exact


def _unread(texts: pl.Series, problems: pl.Series) -> str:
    first = texts.filter((problems == TIME_BAD) & texts.is_not_null()).head(1).to_list()
    if not first:
        return ""
    return (
        f"{first[0][:60]!r} is no time that is read by itself (numbers since 1970, ISO 8601, Sun Jul 30 00:05:00 -0700 2017, "
        "one unmistakable order of day, month and year): set data.time.format"
    )


def _hint(whole: pl.Series, unit: str) -> str:
    numbers_ = whole.drop_nulls()
    if unit != "seconds" or numbers_.is_empty():
        return ""
    low, high = int(numbers_.min()), int(numbers_.max())  # type: ignore[arg-type]
    if low >= 19_000_101 and high <= 21_001_231:
        return 'they look like dates in digits: data.time.format="%Y%m%d" reads them'
    return ""


def _warn_of_single(real: pl.Series) -> None:
    largest = real.abs().max()
    if isinstance(largest, float) and largest >= 2**24:
        gap = np.spacing(np.float32(largest))
        warnings.warn(
            f"{SINGLE}: neighbours within {gap:,.0f} units cannot be told apart: store them as integers or in double precision",
            stacklevel=2,
        )


def _date(nanoseconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)).date().isoformat()
