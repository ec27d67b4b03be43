"""Times as they are written -> numbers, or moments in nanoseconds since 1970, value by value or form by form."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import polars as pl

from pauserec.data.raw.chunks import SPACES
from pauserec.data.raw.clean import TIME_BAD, TIME_FUTURE, TIME_NEGATIVE, BadValueError, iso, plain_number
from pauserec.data.raw.columns import Values, numbers, python_values

_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?)?( ?UTC| ?GMT|Z)?$"
_CTIME = ("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Z %Y", "%a %b %d %H:%M:%S %Y")


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
    moments = formed(text.str.strip_chars(SPACES), form)
    bad = pl.select(pl.when(moments.is_null()).then(pl.lit(TIME_BAD))).to_series()
    return _frame(size, moment=moments, time_problem=bad)


def formed(text: pl.Series, form: str) -> pl.Series:
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
    moments = formed(bare, "%Y-%m-%d %H:%M:%S%.f").fill_null(formed(bare, "%Y-%m-%d"))
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
