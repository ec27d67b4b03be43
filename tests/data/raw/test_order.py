"""A column called `order` counts where the recipe names it, where it is all there is, or where it proves to be a position."""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import cli
from pauserec.cli.user_files import data_as_read
from pauserec.cli.user_files import read as read_users
from pauserec.config import Columns, DataConfig, Recipe
from pauserec.data.dataset import prepare
from pauserec.data.raw.events import Raw, read_raw
from pauserec.runs.folder import Run

HEADER = "user_id,item_id,timestamp,order\n"
Row = tuple[str, str, object, object]


def shop() -> list[Row]:
    """Eight users of a shop that numbers all its purchases, downwards: order and time are each other's opposite."""
    return [
        (f"u{user}", f"i{event}", 1_600_000_000 + 60 * event, 9000 - 100 * user - event)
        for user in range(8)
        for event in range(5)
    ]


def counted(first: int = 0, users: int = 8) -> list[Row]:
    """Users whose events are counted, all on one day each."""
    return [
        (f"u{user}", f"i{(user + event) % 7}", 1_600_000_000 + 86_400 * user, event + first)
        for user in range(users)
        for event in range(5)
    ]


def written(folder: Path, rows: list[Row], header: str = HEADER) -> DataConfig:
    path = folder / "events.csv"
    path.write_text(header + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return DataConfig(interactions=str(path), min_interactions=1)


def read(config: DataConfig, **columns: Any) -> tuple[Raw, list[str]]:
    """What is read, and the lines that were said about it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        raw = read_raw(config.model_copy(update={"columns": Columns(**columns)}))
    return raw, [str(warning.message) for warning in said]


def test_the_number_of_a_purchase_is_no_order_of_events(tmp_path: Path) -> None:
    raw, (line,) = read(written(tmp_path, shop()))
    assert raw.ordered_by == "timestamp"
    first = raw.events.filter(user_id="u0").sort("time")
    assert first["item_id"].to_list() == ["i0", "i1", "i2", "i3", "i4"]
    assert "events.csv has both order and timestamp: events follow timestamp" in line
    assert "order and timestamp disagree for 8 of 8 users: data.columns.order decides" in line


@pytest.mark.parametrize("first", [0, 1])
def test_a_position_in_the_history_is(tmp_path: Path, first: int) -> None:
    raw, (line,) = read(written(tmp_path, counted(first)))
    assert raw.ordered_by == "order"
    assert "events follow order" in line
    assert "data.columns.order" in line
    assert "disagree" not in line


def basket(rows: list[Row]) -> None:
    rows[1] = (*rows[1][:3], rows[0][3])


def gaps(rows: list[Row]) -> None:
    rows[:] = [(user, item, time, int(str(order)) * 2) for user, item, time, order in rows]


def backwards(rows: list[Row]) -> None:
    rows[:] = [(user, item, 1_600_000_000 - 60 * int(str(order)), order) for user, item, _, order in rows]


def labels(rows: list[Row]) -> None:
    rows[:] = [(user, item, time, f"ORD-{order}") for user, item, time, order in rows]


def fractions(rows: list[Row]) -> None:
    rows[1] = (*rows[1][:3], 0.5)


@pytest.mark.parametrize("change", [basket, gaps, backwards, labels, fractions])
def test_what_speaks_against_a_position(tmp_path: Path, change: Any) -> None:
    rows = counted()
    change(rows)
    raw, said = read(written(tmp_path, rows))
    assert (raw.ordered_by, len(said)) == ("timestamp", 1)
    assert raw.counts.accepted == len(rows)


def missing(rows: list[Row]) -> None:
    rows[1] = (*rows[1][:3], "")


def torn(rows: list[Row]) -> None:
    rows[1] = (*rows[1][:3], "third")


def twice(rows: list[Row]) -> None:
    rows.append(rows[0])


def untimed(rows: list[Row]) -> None:
    rows[3] = (*rows[3][:2], "", rows[3][3])


def one_late(rows: list[Row]) -> None:
    rows[0] = (*rows[0][:2], 1_700_000_000, rows[0][3])


@pytest.mark.parametrize("change", [missing, torn, twice, untimed, one_late])
def test_a_few_faults_do_not(tmp_path: Path, change: Any) -> None:
    rows = counted(users=40)
    change(rows)
    raw, (line,) = read(written(tmp_path, rows))
    assert raw.ordered_by == "order"
    assert ("disagree for 1 of 40 users" in line) == (change is one_late)


def test_what_the_recipe_names_counts(tmp_path: Path) -> None:
    config = written(tmp_path, shop())
    raw, (line,) = read(config, order="order")
    assert raw.ordered_by == "order"
    assert "order and timestamp disagree for 8 of 8 users" in line
    assert "data.columns.order" in line
    raw, said = read(config, order=None)
    assert (raw.ordered_by, said) == ("timestamp", [])
    raw, said = read(written(tmp_path, counted()), order="order")
    assert (raw.ordered_by, said) == ("order", [])
    position = HEADER.replace("order", "position")
    raw, said = read(written(tmp_path, counted(), position), order="position")
    assert (raw.ordered_by, said) == ("order", [])


@pytest.mark.parametrize("time", ["", "soon"])
def test_without_a_time_it_is_all_there_is(tmp_path: Path, time: str) -> None:
    rows = [(user, item, time, order) for user, item, _, order in shop()]
    raw, said = read(written(tmp_path, rows))
    assert (raw.ordered_by, said) == ("order", [])
    raw, said = read(written(tmp_path, rows, HEADER.replace("timestamp", "note")))
    assert (raw.ordered_by, said) == ("order", [])


def test_a_name_of_earlier_recipes_need_not_be_there(tmp_path: Path) -> None:
    """They wrote `order = "order"` out as the default."""
    config = written(tmp_path, [row[:3] for row in shop()], HEADER.replace(",order", ""))  # type: ignore[misc]
    assert read(config, order="order")[0].ordered_by == "timestamp"
    (tmp_path / "events.csv").write_text("reviewerID,asin,unixReviewTime\nu,a,1\n")
    assert read(config, order="order")[0].ordered_by == "timestamp"


@pytest.mark.parametrize(
    ("rows", "by", "rule", "disagree"),
    [(shop(), "timestamp", "no positions", 8), (counted(), "order", "positions", 0)],
)
def test_the_report_says_what_was_chosen(tmp_path: Path, rows: list[Row], by: str, rule: str, disagree: int) -> None:
    prepare(written(tmp_path, rows), out=tmp_path / "out", log=lambda **_: None)
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    chosen = {key: report[key] for key in ("ordered_by", "order_rule", "users_order_and_time_disagree")}
    assert chosen == {"ordered_by": by, "order_rule": rule, "users_order_and_time_disagree": disagree}


def test_histories_to_answer_are_read_by_the_same_rule(tmp_path: Path) -> None:
    config = written(tmp_path, shop())
    with pytest.warns(UserWarning, match="disagree for 8 of 8 users: data.columns.order decides"):
        _, histories = read_users(None, Path(str(config.interactions)), DataConfig())
    assert histories[0] == ["i0", "i1", "i2", "i3", "i4"]
    named = DataConfig(columns=Columns(order="order"))
    with pytest.warns(UserWarning, match="disagree for 8 of 8 users"):
        _, histories = read_users(None, Path(str(config.interactions)), named)
    assert histories[0] == ["i4", "i3", "i2", "i1", "i0"]
    rows = counted()[::-1]
    with pytest.warns(UserWarning, match="events follow order"):
        found = dict(zip(*read_users(None, Path(str(written(tmp_path, rows).interactions))), strict=True))
    assert found["u0"] == ["i0", "i1", "i2", "i3", "i4"]


def test_the_last_events_of_a_history_follow_the_column_that_the_run_chose(tmp_path: Path) -> None:
    """Their positions do not begin at 0, and their times are of one day: alone they could not say."""
    config = written(tmp_path, counted())
    prepare(config, out=tmp_path / "dataset", log=lambda **_: None)
    recipe = Recipe(name="r", data=config)
    path = tmp_path / "users.csv"
    path.write_text(HEADER + "".join(f"u,i{n},1600000000,{37 - n}\n" for n in range(7)))
    _, (history,) = read_users(None, path, data_as_read(Run(tmp_path, recipe)))
    assert history == [f"i{n}" for n in range(7)][::-1]
    prepare(written(tmp_path, shop()), out=tmp_path / "dataset", log=lambda **_: None)
    assert data_as_read(Run(tmp_path, recipe)) == config


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    config = written(tmp_path, shop())
    quarantine = tmp_path / "bad.jsonl"
    done = cli("data", "check", "--interactions", config.interactions, "--quarantine", quarantine)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert line.endswith("disagree for 8 of 8 users: data.columns.order decides")


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_rows_of_a_file_may_stand_in_any_order(data: Any) -> None:

    rows = data.draw(st.sampled_from([shop(), counted(), counted(1)]))
    mixed = data.draw(st.permutations(rows))
    with tempfile.TemporaryDirectory() as name:
        assert read(written(Path(name), mixed))[1] == read(written(Path(name), rows))[1]
