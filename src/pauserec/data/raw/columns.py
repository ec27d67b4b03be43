"""Cleaning of whole columns of ids and numbers: plain values all at once, the others one by one."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import polars as pl

from pauserec.config import IdRule
from pauserec.data.raw.chunks import SPACES
from pauserec.data.raw.clean import ID_MISSING, MAX_ID_CHARS, BadValueError, Float32, clean_id, clean_order, respelt

Values = pl.Series | list[Any] | None
_PLAIN_ID = rf"^[!-~]{{1,{MAX_ID_CHARS}}}$"
_DIGITS = r"^[0-9]{1,19}$"
_DECIMAL = r"^-?[0-9]{1,15}\.[0-9]{1,15}$"


class Cleaned(NamedTuple):
    """A column: a value or a problem in each row, and what was mended; null where there is none."""

    value: pl.Series
    problem: pl.Series
    repair: pl.Series


def clean_ids(values: Values, size: int, missing: frozenset[str], rules: Sequence[IdRule] = ()) -> Cleaned:
    """Ids as text (String). See `clean.clean_id`, which says what is an id."""
    if isinstance(values, pl.Series) and values.dtype.is_integer():
        none = pl.select(pl.when(values.is_null()).then(pl.lit(ID_MISSING))).to_series()
        return _respelt(Cleaned(values.cast(pl.String), none, _nulls(size, pl.String)), rules)
    if isinstance(values, pl.Series) and values.dtype == pl.String:
        plain = values.str.contains(_PLAIN_ID) & ~values.str.to_lowercase().is_in(list(missing))
        if plain.all(ignore_nulls=False):
            return _respelt(Cleaned(values, *_nothing(size, 2)), rules)
        odd = values.filter(~plain.fill_null(value=False)).unique().to_list()
        found = pl.DataFrame(
            [(value, *_tried(lambda each: clean_id(each, missing), value)) for value in odd],
            schema=dict.fromkeys(("raw", "value", "problem", "repair"), pl.String),
            orient="row",
        )
        joined = (
            values.alias("raw").to_frame().join(found, on="raw", how="left", nulls_equal=True, maintain_order="left")
        )
        joined = joined.with_columns(
            pl.when(pl.col("value").is_null() & pl.col("problem").is_null())
            .then("raw")
            .otherwise("value")
            .alias("value")
        )
        return _respelt(Cleaned(joined["value"], joined["problem"], joined["repair"]), rules)
    every = [_tried(lambda each: clean_id(each, missing), value) for value in python_values(values, size)]
    columns = zip(*every, strict=True) if every else ((), (), ())
    return _respelt(Cleaned(*(pl.Series(list(each), dtype=pl.String) for each in columns)), rules)


def _respelt(found: Cleaned, rules: Sequence[IdRule]) -> Cleaned:
    if not rules:
        return found
    text = respelt(found.value, rules)
    changed = (text != found.value).fill_null(value=False)
    again = pl.select(
        pl.when(changed & found.repair.is_null()).then(pl.lit("id spelt by data.ids")).otherwise(found.repair)
    )
    return Cleaned(text, found.problem, again.to_series())


def missing_words(values: Values, missing: frozenset[str]) -> Counter[str]:
    """How often each word for "no value" stands in a column of text, as it is written there."""
    if isinstance(values, list):
        return Counter(value.strip() for value in values if isinstance(value, str) and value.strip().lower() in missing)
    if values is None or values.dtype != pl.String:
        return Counter()
    stripped = values.str.strip_chars(SPACES)
    words = stripped.filter(stripped.str.to_lowercase().is_in(list(missing)))
    return Counter(dict(words.value_counts().iter_rows())) if len(words) else Counter()


class Numbers(NamedTuple):
    """A column of numbers.

    whole: Int64. real: Float64, where a number is not whole. odd: rows that hold something else, values and rows.
    """

    whole: pl.Series
    real: pl.Series
    odd: list[tuple[int, Any]]


def numbers(values: Values, size: int) -> Numbers:
    """Numbers as far as they are plain; what is not is left to the caller, null too."""
    whole, real = _nulls(size, pl.Int64), _nulls(size, pl.Float64)
    if isinstance(values, pl.Series):
        if values.dtype.is_integer():
            whole = values.cast(pl.Int64, strict=False)
            left = whole.is_null()
            return Numbers(whole, real, _rows(values, left))
        if values.dtype in (pl.Float32, pl.Float64):
            finite = values.is_finite().fill_null(value=False)
            real = pl.select(pl.when(finite).then(values)).to_series().cast(pl.Float64)
            return Numbers(whole, real, _rows(values, ~finite))
        if values.dtype == pl.String:
            text = values.str.strip_chars(SPACES)
            digits = text.str.contains(_DIGITS).fill_null(value=False)
            whole = pl.select(pl.when(digits).then(text)).to_series().cast(pl.Int64, strict=False)
            if whole.is_not_null().all():
                return Numbers(whole, real, [])
            decimal = text.str.contains(_DECIMAL).fill_null(value=False)
            real = pl.select(pl.when(decimal).then(text)).to_series().cast(pl.Float64, strict=False)
            return Numbers(whole, real, _rows(values, whole.is_null() & real.is_null()))
    return Numbers(whole, real, list(enumerate(python_values(values, size))))


def clean_orders(values: Values, size: int, missing: frozenset[str]) -> Cleaned:
    """Positions: Int64 where all are whole, else Float64. See `clean.clean_order`. Nothing is repaired."""
    if values is None:
        return Cleaned(_nulls(size, pl.Int64), *_nothing(size, 2))
    plain = numbers(values, size)
    problem: dict[int, str] = {}
    late: dict[int, int | float] = {}
    for row, value in plain.odd:
        found, bad, _ = _tried(lambda each: (clean_order(each, missing), ""), value)
        if bad:
            problem[row] = bad
        elif found is not None:
            late[row] = found
    real = plain.real.to_list() if plain.real.is_not_null().any() or late else None
    if real is None:
        return Cleaned(plain.whole, _placed(problem, size), _nulls(size, pl.String))
    merged: list[int | float | None] = [
        _as_whole(other) if one is None else one for one, other in zip(plain.whole.to_list(), real, strict=True)
    ]
    for row, value in late.items():
        merged[row] = value
    return Cleaned(series_of(merged), _placed(problem, size), _nulls(size, pl.String))


def series_of(values: Sequence[int | float | None]) -> pl.Series:
    """Numbers: Int64 where all are whole, so that none loses digits, else Float64."""
    whole = all(isinstance(value, int) for value in values if value is not None)
    return pl.Series("time", values, dtype=pl.Int64 if whole else pl.Float64, strict=False)


def python_values(values: Values, size: int) -> list[Any]:
    """Values as Python's own; a number of single precision says so."""
    if values is None:
        return [None] * size
    if isinstance(values, list):
        return values
    if values.dtype == pl.Float32:
        return [None if value is None else Float32(value) for value in values.to_list()]
    return values.to_list()


def _as_whole(value: float | None) -> int | float | None:
    return int(value) if value is not None and value.is_integer() and abs(value) <= 2**53 else value


def _tried(clean: Callable[[Any], tuple[Any, str]], value: Any) -> tuple[Any, str | None, str | None]:
    try:
        found, repair = clean(value)
    except BadValueError as bad:
        return None, str(bad), None
    return found, None, repair or None


def _rows(values: pl.Series, which: pl.Series) -> list[tuple[int, Any]]:
    places = which.fill_null(value=True).arg_true().to_list()
    return list(zip(places, python_values(values.gather(places), len(places)), strict=True))


def _placed(texts: dict[int, str], size: int) -> pl.Series:
    column = _nulls(size, pl.String)
    return column.scatter(list(texts), list(texts.values())) if texts else column


def _nulls(size: int, dtype: Any) -> pl.Series:
    return pl.repeat(None, size, dtype=dtype, eager=True)


def _nothing(size: int, number: int) -> list[pl.Series]:
    return [_nulls(size, pl.String)] * number
