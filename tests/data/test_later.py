"""A data set goes on: users keep their order, new ones come in, and nobody who was there leaves."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauserec.config import DataConfig
from pauserec.data.dataset import load_dataset, prepare
from pauserec.data.later import appended, earlier_events
from pauserec.errors import DataError
from pauserec.records import Dataset, Item

EARLIER = Dataset(
    (Item("a", "A"), Item("b", "B"), Item("c", "C"), Item("d")),
    ("u", "v"),
    (np.array([0, 1, 2]), np.array([3, 0, 1, 2])),
    "none",
    (np.array([1, 1, 2]), np.array([-1, 2, 3, 3])),
)


def events(*rows: tuple[str, str, int]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "time": pl.Int64}, orient="row")
    return frame.with_columns(line=pl.int_range(pl.len()), day=pl.lit(9, dtype=pl.Int64))


def by_user(frame: pl.DataFrame) -> dict[str, list[str]]:
    grouped = frame.group_by("user_id", maintain_order=True).agg("item_id")
    return dict(zip(grouped["user_id"].to_list(), grouped["item_id"].to_list(), strict=True))


def test_a_data_set_as_events_is_the_same_again() -> None:
    assert by_user(earlier_events(EARLIER)) == {"u": ["a", "b", "c"], "v": ["d", "a", "b", "c"]}
    assert earlier_events(EARLIER)["day"].to_list() == [1, 1, 2, None, 2, 3, 3]


def test_new_events_come_after_in_the_order_of_time() -> None:
    found = appended(EARLIER, events(("u", "x", 20), ("u", "d", 10)), DataConfig())
    assert by_user(found.events)["u"] == ["a", "b", "c", "d", "x"]
    assert by_user(found.events)["v"] == ["d", "a", "b", "c"]


def test_an_event_that_is_known_is_no_second_one() -> None:
    found = appended(EARLIER, events(("u", "b", 5), ("u", "d", 10)), DataConfig())
    assert by_user(found.events)["u"] == ["a", "b", "c", "d"]
    assert found.repeats == 1
    kept = appended(EARLIER, events(("u", "b", 5)), DataConfig(repeats="keep"))
    assert by_user(kept.events)["u"] == ["a", "b", "c", "b"]


def test_a_new_user_needs_as_many_events_as_any_but_a_new_item_one() -> None:
    five = [("new", item, time) for time, item in enumerate(["a", "b", "c", "d", "only here"])]
    found = appended(EARLIER, events(*five, ("few", "a", 1), ("few", "b", 2)), DataConfig())
    assert by_user(found.events)["new"] == ["a", "b", "c", "d", "only here"]
    assert "few" not in by_user(found.events)
    assert found.short_users == 1


@given(st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcdefgh"), st.integers(0, 99)), max_size=40))
def test_histories_only_grow(rows: list[tuple[str, str, int]]) -> None:
    before, after = by_user(earlier_events(EARLIER)), by_user(appended(EARLIER, events(*rows), DataConfig()).events)
    for user, items in before.items():
        assert after[user][: len(items)] == items
        assert len(set(after[user])) == len(after[user])


def write(path: Path, rows: list[tuple[str, str, int]]) -> str:
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{1_700_000_000 + t}\n" for u, i, t in rows))
    return str(path)


def test_prepared_again_with_what_came_since(tmp_path: Path) -> None:
    rows = [(f"u{user}", f"i{(user + place) % 8}", 100 * place) for user in range(8) for place in range(6)]
    first = DataConfig(interactions=write(tmp_path / "first.csv", rows))
    prepare(first, out=tmp_path / "dataset", log=lambda **_: None)
    since = write(tmp_path / "since.csv", [("u0", "brand new", 900), ("u1", "i7", 901)])
    config = DataConfig(interactions=since, after=str(tmp_path / "dataset"))
    summary = prepare(config, out=tmp_path / "again", log=lambda **_: None)
    earlier, later = load_dataset(tmp_path / "dataset"), load_dataset(tmp_path / "again")
    assert summary["users"] == len(earlier.users) == 8
    assert {item.item_id for item in later.items} - {item.item_id for item in earlier.items} == {"brand new"}
    assert [later.items[item].item_id for item in later.sequences[0]][-1] == "brand new"
    with pytest.raises(DataError, match="is no prepared data set"):
        prepare(config.model_copy(update={"after": str(tmp_path)}), out=tmp_path / "x", log=lambda **_: None)
