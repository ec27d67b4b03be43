"""A column of times is judged as a whole: one unit for all its numbers, one form for all its texts."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauserec.config import DataConfig, TimeConfig
from pauserec.data.raw.events import Raw, read_raw

SECOND = 10**9
BEGIN = 1_600_000_000


def read(folder: Path, times: list[Any], **settings_: Any) -> Raw:
    path = folder / "events.csv"
    path.write_text("user_id;item_id;timestamp\n" + "".join(f"u;i{n};{time}\n" for n, time in enumerate(times)))
    return read_raw(DataConfig(interactions=str(path), **settings_))


def seconds(raw: Raw) -> list[int]:
    return [time // SECOND for time in raw.events.sort("line")["time"].to_list()]


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S UTC",
        "%Y-%m-%d %H:%M:%S GMT",
        "%Y-%m-%dT%H:%M:%SZ",
        "%a %b %d %H:%M:%S +0000 %Y",
        "%a %b %d %H:%M:%S %Y",
        "%a, %d %b %Y %H:%M:%S GMT",
        "%d.%m.%Y %H:%M:%S",
        "%Y/%m/%d %H:%M:%S",
        "%m/%d/%Y %I:%M:%S %p",
        "%d-%b-%y %H:%M:%S",
        "%Y-%m-%d %H:%M:%S +0000",
    ],
)
def test_common_forms_are_read(tmp_path: Path, form: str) -> None:
    moments = [BEGIN + 86_400 * day + 61 for day in range(3)]
    raw = read(tmp_path, [datetime.fromtimestamp(moment, UTC).strftime(form) for moment in moments])
    assert seconds(raw) == moments
    assert raw.clock.line().startswith("times written as dates (100.0% of the values fit), 2020-09-13 to 2020-09-15")


def test_days_and_months_that_could_change_places_are_not_guessed(tmp_path: Path) -> None:
    raw = read(tmp_path, ["03/04/2020", "05/06/2020"])
    assert raw.counts.reasons == {"unreadable timestamp": 2}
    assert "'03/04/2020' is no time that is read by itself" in raw.clock.unread
    assert "data.time.format" in raw.clock.unread
    raw = read(tmp_path, ["03/04/2020", "05/06/2020"], time=TimeConfig(format="%d/%m/%Y"))
    assert [datetime.fromtimestamp(time, UTC).month for time in seconds(raw)] == [4, 6]
    raw = read(tmp_path, ["03/04/2020", "25/06/2020"])
    assert [datetime.fromtimestamp(time, UTC).month for time in seconds(raw)] == [4, 6]


def test_years_of_two_digits_are_not_taken_for_days(tmp_path: Path) -> None:
    raw = read(tmp_path, ["20/01/25", "20/02/10", "20/03/05", "21/01/03"])
    assert (raw.counts.accepted, raw.counts.reasons) == (0, {"unreadable timestamp": 4})
    raw = read(tmp_path, ["20/01/25", "20/02/10"], time=TimeConfig(format="%y/%m/%d"))
    assert [datetime.fromtimestamp(time, UTC).year for time in seconds(raw)] == [2020, 2020]


@pytest.mark.parametrize(
    ("value", "hint"),
    [(20200113, "%Y%m%d"), (20200113000000, "%Y%m%d%H%M%S"), (637134336000000000, "ticks of .NET")],
)
def test_numbers_that_look_like_something_else_are_named(tmp_path: Path, value: int, hint: str) -> None:
    assert hint in read(tmp_path, [value, value + 1]).clock.hint


def test_a_number_that_does_not_fit_the_columns_unit_is_left_out(tmp_path: Path) -> None:
    raw = read(tmp_path, [BEGIN, BEGIN + 1, (BEGIN + 2) * 1000])
    assert seconds(raw) == [BEGIN, BEGIN + 1]
    assert raw.counts.reasons == {"future timestamp": 1}
    assert "66.7% of the values fit" in raw.clock.line()


def test_days_since_1970_are_days(tmp_path: Path) -> None:
    days = [BEGIN // 86_400 + n for n in range(40)]
    raw = read(tmp_path, days)
    assert raw.clock.unit == "days"
    assert raw.events.sort("line")["day"].to_list() == days


def test_unit_and_zero_may_be_named(tmp_path: Path) -> None:
    raw = read(tmp_path, [44_000.5, 44_001], time=TimeConfig(unit="days", zero="1899-12-30"))
    assert [datetime.fromtimestamp(time, UTC).isoformat()[:13] for time in seconds(raw)] == [
        "2020-06-18T12",
        "2020-06-19T00",
    ]
    raw = read(tmp_path, [5, 3], time=TimeConfig(unit="relative"))
    assert (raw.events["day"].null_count(), raw.counts.notes) == (2, {"relative times": 2})


def test_a_zero_that_is_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="no ISO 8601 time"):
        TimeConfig(zero="yesterday")


def test_durations_are_an_order_without_days(tmp_path: Path) -> None:
    times = [timedelta(hours=n) for n in (3, 1, 2)]
    path = tmp_path / "events.parquet"
    pl.DataFrame({"user_id": ["u"] * 3, "item_id": list("abc"), "timestamp": times}).write_parquet(path)
    raw = read_raw(DataConfig(interactions=str(path)))
    assert raw.events.sort("time")["item_id"].to_list() == ["b", "c", "a"]
    assert raw.events["day"].null_count() == 3


def test_single_precision_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    times = pl.Series([BEGIN, BEGIN + 10], dtype=pl.Float32)
    pl.DataFrame({"user_id": ["u"] * 2, "item_id": list("ab"), "timestamp": times}).write_parquet(path)
    with pytest.warns(UserWarning, match="single precision: neighbours within 128 units cannot be told apart"):
        read_raw(DataConfig(interactions=str(path)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(631_152_000, BEGIN), min_size=1, max_size=8), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_a_unit_is_found_whatever_the_values(moments: list[int], factor: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert seconds(read(Path(folder), [moment * factor for moment in moments])) == moments
