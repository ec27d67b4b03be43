"""A column of times, judged as a whole: what its values are written in, and the moment that each of them is.

The unit of numbers is that in which most of them fit. It holds for the whole column: a value that does not fit it is left out,
never read in another unit.
"""

import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from pauserec.config import TimeConfig
from pauserec.data.raw.clean import (
    TIME_BAD,
    TIME_FUTURE,
    TIME_MISSING,
    TIME_NEGATIVE,
    iso,
)
from pauserec.data.raw.moments import formed

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
_FORMS = tuple(
    f"{day}{clock}"
    for day in (
        *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
        *("%d %b %Y", "%b %d, %Y", "%d-%b-%Y", "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%b-%y"),
        *("%y/%m/%d", "%y.%m.%d", "%y-%m-%d", "%d-%m-%y", "%m-%d-%y"),
    )
    for clock in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %I:%M:%S %p")
)
"""Forms that are tried on what no other rule reads: all of the column's such values in one form."""
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
        _hint(parsed["whole"]) if config == TimeConfig() else "",
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
    best: tuple[int, pl.Series] = (0, formed(distinct, "%Y"))
    rivals = False
    for form in _FORMS:
        found = formed(distinct, form)
        found = pl.select(pl.when(found >= 0).then(found)).to_series()  # 20 is no year
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


def _hint(whole: pl.Series) -> str:
    numbers_ = whole.drop_nulls()
    if numbers_.is_empty():
        return ""
    low, high = int(numbers_.min()), int(numbers_.max())  # type: ignore[arg-type]
    if low >= 19_000_101 and high <= 21_001_231:
        return 'they look like dates in digits: data.time.format="%Y%m%d" reads them'
    if low >= 19_000_101_000_000 and high <= 21_001_231_235_959:
        return 'they look like dates in digits: data.time.format="%Y%m%d%H%M%S" reads them'
    if low >= 62 * 10**16 and high <= 66 * 10**16:
        return "they look like ticks of .NET (100 nanoseconds since the year 1), whose days are others: convert them"
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
