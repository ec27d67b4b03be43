"""From raw rows to histories: order, ties, repeats, k-core, and no leak of the target."""

import itertools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_sets import shared
from pauserec.config import Columns, DataConfig
from pauserec.data.check import check
from pauserec.data.dataset import load_dataset, prepare
from pauserec.data.sequences import build_histories, k_core
from pauserec.errors import DataError
from pauserec.records import Dataset

Event = tuple[str, str, int]


def prepared(events: list[Event], **options: Any) -> Dataset:
    """Write, prepare and load; users and items need one event unless told otherwise."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "interactions.csv"
        path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events))
        config = DataConfig(**{"interactions": str(path), "min_interactions": 1, **options})
        summary = prepare(config, out=Path(name) / "out", log=lambda **values: None)
        dataset = load_dataset(Path(name) / "out")
        quarantine = (Path(name) / "out/quarantine.jsonl").read_text().splitlines()
    assert len(quarantine) == summary["quarantined"]
    assert (len(dataset.users), len(dataset.items)) == (summary["users"], summary["items"])
    assert (dataset.interactions, dataset.fingerprint) == (summary["interactions"], summary["fingerprint"])
    return dataset


def names(dataset: Dataset, user: int = 0) -> list[str]:
    return [dataset.items[number].item_id for number in dataset.sequences[user]]


def test_events_are_sorted_by_time() -> None:
    assert names(prepared([("u", "a", 30), ("u", "b", 10), ("u", "c", 20)])) == ["b", "c", "a"]


def test_days_are_kept_beside_the_items() -> None:
    first, day = 10_000, 86_400
    times = [("a", 3 * day), ("b", day), ("c", 3 * day - 1), ("d", 3 * day + 5)]
    dataset = prepared([("u", item, first * day + time) for item, time in times])
    assert names(dataset) == ["b", "c", "a", "d"]
    assert dataset.days is not None
    assert [[day - first for day in days.tolist()] for days in dataset.days] == [[1, 2, 3, 3]]


@pytest.mark.parametrize("times", [(1, 2, 3), (20140101, 20140115, 20140131)])
def test_positions_and_dates_in_digits_have_an_order_but_no_day(times: tuple[int, ...]) -> None:
    dataset = prepared([("u", item, time) for item, time in zip("abc", times, strict=True)])
    assert names(dataset) == ["a", "b", "c"]
    assert dataset.days is None


@pytest.mark.parametrize("k", [1, 2])
def test_a_small_core_is_a_core_after_short_users_have_left(k: int) -> None:
    long = [(user, item, time) for user in "uv" for time, item in enumerate("pqr")]
    dataset = prepared([*long, ("s", "x", 1), ("s", "y", 2), ("t", "x", 1), ("u", "x", 9)], min_interactions=k)
    counts = np.bincount(np.concatenate(dataset.sequences))
    assert counts.min() >= k
    assert min(map(len, dataset.sequences)) >= 3


def test_without_times_there_are_no_days(tmp_path: Path) -> None:
    path = tmp_path / "interactions.csv"
    path.write_text("user_id,item_id,order\nu,a,0\nu,b,1\nu,c,2\n")
    prepare(DataConfig(interactions=str(path), min_interactions=1), out=tmp_path / "out", log=lambda **values: None)
    assert load_dataset(tmp_path / "out").days is None


def test_ties_follow_neither_the_file_nor_the_id() -> None:
    events = [(f"u{n}", item, 5) for n in range(40) for item in "abc"]
    dataset = prepared(events)
    orders = {tuple(names(dataset, n)) for n in range(40)}
    assert orders == set(itertools.permutations("abc"))
    assert prepared(events[::-1]).fingerprint == dataset.fingerprint


def test_ties_may_follow_the_file() -> None:
    assert names(prepared([("u", item, 5) for item in "cab"], ties="file")) == ["c", "a", "b"]


def test_ties_are_counted() -> None:
    columns = {"user_id": ["u"] * 4, "item_id": list("abcd"), "time": [1, 1, 1, 2], "line": [1, 2, 3, 4]}
    assert build_histories(pl.DataFrame(columns), 1, "hash", "first").ties == 2


def test_repeats_keep_the_first_or_all() -> None:
    events = [("u", "a", 1), ("u", "b", 2), ("u", "a", 3), ("u", "c", 4)]
    assert names(prepared(events)) == ["a", "b", "c"]
    assert names(prepared(events, repeats="keep")) == ["a", "b", "a", "c"]


def test_items_are_in_an_order_without_meaning() -> None:
    ids = [f"{n:03d}" for n in range(100)]
    kept = [item.item_id for item in prepared([("u", item, n) for n, item in enumerate(ids)]).items]
    assert sorted(kept) == ids
    places = np.array([int(item) for item in kept])
    assert abs(np.corrcoef(places, np.arange(100))[0, 1]) < 0.3


def test_users_with_too_few_events_are_left_out() -> None:
    assert prepared([("u", "a", 1), ("u", "b", 2), *(("v", i, n) for n, i in enumerate("abc"))]).users == ("v",)


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match=r"5-core filtering .*lower data.min_interactions"):
        prepared([("u", "a", 1)], min_interactions=5)
    with pytest.raises(DataError, match=r"no usable interaction: of 1 .*1 x missing timestamp"):
        prepared([("u", "a", "")])  # type: ignore[list-item]


def test_order_numbers_that_are_no_order_say_which_setting_leaves_them_aside(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,order\nu,a,1,ORD-1\nu,b,2,ORD-2\n")
    config = DataConfig(source=str(tmp_path), min_interactions=1, columns=Columns(order="order"))
    with pytest.raises(DataError, match=r"2 x unreadable order.*set data.columns.order=\"null\""):
        prepare(config, out=tmp_path / "out", log=lambda **values: None)


def test_a_folder_that_was_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--redo dataset"):
        load_dataset(tmp_path)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60), st.integers(1, 4))
def test_k_core_equals_dropping_one_at_a_time(pairs: list[tuple[int, int]], k: int) -> None:
    left = list(enumerate(pairs))
    while True:
        poor = [e for e in left if any(sum(o[1][s] == e[1][s] for o in left) < k for s in (0, 1))]
        if not poor:
            break
        left.remove(poor[0])
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    assert np.flatnonzero(k_core(users, items, k)).tolist() == [n for n, _ in left]


EVENT = st.tuples(st.sampled_from("uvw"), st.sampled_from("abcdefg"), st.integers(0, 6))
EVENTS = st.lists(EVENT, min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(EVENTS, st.integers(0, 9), st.sampled_from(["first", "keep"]))
def test_row_order_changes_nothing(events: list[Event], seed: int, repeats: str) -> None:
    shuffled = random.Random(seed).sample(events, len(events))
    results = []
    for rows in (events, shuffled):
        try:
            results.append(prepared(rows, repeats=repeats).fingerprint)
        except DataError:
            results.append("nothing left")
    assert results[0] == results[1]


FIELDS = (["u", " u", ""], ["a", "a ", "b", "x"], ["1", "2", ""])
ROWS = st.lists(st.tuples(*(st.sampled_from(values) for values in FIELDS)), max_size=12)


@settings(deadline=None, max_examples=40)
@given(ROWS, st.integers(0, 9))
def test_row_order_changes_no_count(rows: list[tuple[str, str, str]], seed: int) -> None:
    reports = []
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "items.csv").write_text("item_id,title\na,A\nb,B\n")
        for order in (rows, random.Random(seed).sample(rows, len(rows))):
            content = "user_id,item_id,timestamp\n" + "".join(",".join(row) + "\n" for row in order)
            (Path(name) / "interactions.csv").write_text(content)
            reports.append(check(DataConfig(source=name), Path(name) / "quarantine.out").as_dict())
    assert reports[0] == reports[1]


@settings(deadline=None, max_examples=40)
@given(EVENTS)
def test_the_target_and_what_follows_never_reach_the_history(events: list[Event]) -> None:
    try:
        dataset = prepared(events)
    except DataError:
        return
    for back, split in enumerate(("test", "validation", "train"), 1):
        for history in dataset.split(split):  # type: ignore[arg-type]
            sequence = dataset.sequences[dataset.users.index(history.user_id)].tolist()
            assert history.items.tolist() == sequence[: len(sequence) - back]
            assert history.target == sequence[-back]
            assert not set(history.items.tolist()) & set(sequence[len(sequence) - back :])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["u", "a", 5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = ("user_id", "item_id", "timestamp", "order", "title", "categories", "asin", "reviewerID")
RECORDS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES) | VALUES, max_size=6)


def survives(folder: Path, suffix: str, events: bytes, items: bytes) -> None:
    """Reading ends in a report whose rows add up, or in a DataError of one line; nothing else may be raised."""
    paths = [folder / f"interactions.{suffix}", folder / f"items.{suffix}"]
    for path, content in zip(paths, (events, items), strict=True):
        path.write_bytes(content)
    try:
        report = check(DataConfig(source=str(folder)), folder / "quarantine.out")
    except DataError as failure:
        error = str(failure)
    else:
        error = ""
    assert len(error.splitlines()) <= 1
    if error:
        return
    assert report.items is not None
    for counts in (report.interactions, report.items):
        assert counts.accepted + counts.repaired + counts.quarantined == counts.read
    rows = [json.loads(line) for line in report.quarantine.read_text().splitlines()]
    assert len(rows) == report.interactions.quarantined + report.items.quarantined
    json.dumps(report.as_dict())


def survives_json(events: list[Any], items: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = [{"user_id": "u", "item_id": "a", "timestamp": 1, "order": 0}]
        content = ["\n".join(json.dumps(record) for record in whole + part).encode() for part in (events, items)]
        survives(Path(folder), "jsonl", *content)


BYTES = st.binary(max_size=80) | st.text(alphabet='uabx1,;"\n\r\t\0 .-', max_size=60).map(str.encode)
SUFFIXES = st.sampled_from(["csv", "jsonl", "csv.gz", "parquet"])


def survives_bytes(suffix: str, headed: bool, events: bytes, items: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if headed:
            events, items = b"user_id,item_id,timestamp,order\n" + events, b"item_id,title\n" + items
        survives(Path(folder), suffix, events, items)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(RECORDS, RECORDS)
def test_any_json_is_survived(events: list[Any], items: list[Any]) -> None:
    survives_json(events, items)


@settings(deadline=None, max_examples=150)
@given(SUFFIXES, st.booleans(), BYTES, BYTES)
def test_any_bytes_are_survived(suffix: str, headed: bool, events: bytes, items: bytes) -> None:
    survives_bytes(suffix, headed, events, items)


CAMPAIGN = settings(
    deadline=None, max_examples=25_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
"""Two files an example, always the same ones: with both tests a hundred thousand files."""


@pytest.mark.slow
@CAMPAIGN
@given(RECORDS, RECORDS)
def test_fifty_thousand_files_of_json_are_survived(events: list[Any], items: list[Any]) -> None:
    survives_json(events, items)


@pytest.mark.slow
@CAMPAIGN
@given(SUFFIXES, st.booleans(), BYTES, BYTES)
def test_fifty_thousand_files_of_bytes_are_survived(suffix: str, headed: bool, events: bytes, items: bytes) -> None:
    survives_bytes(suffix, headed, events, items)


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("amazon2014_beauty", 22_363, 12_101, 198_502),
        ("amazon2014_toys", 19_412, 11_924, 167_597),
        ("ml-100k", 943, 1_349, 99_287),
    ],
)
def test_published_statistics(tmp_path: Path, name: str, users: int, items: int, interactions: int) -> None:
    summary = prepare(DataConfig(source=str(shared(name))), out=tmp_path / "out", log=lambda **values: None)
    assert (summary["users"], summary["items"], summary["interactions"]) == (users, items, interactions)
