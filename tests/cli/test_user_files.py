"""Files of `pauserec recommend`: ids are read as a run reads them, and a bad line is named."""

import io
import itertools
from pathlib import Path

import polars as pl
import pytest

from pauserec.cli.user_files import check_output, ids, read, write
from pauserec.config import DataConfig
from pauserec.data.dataset import load_dataset, prepare
from pauserec.errors import DataError
from pauserec.records import Recommendations, Scored


def users(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_events_of_a_user_are_gathered_in_the_files_order(tmp_path: Path) -> None:
    path = users(tmp_path, "users.csv", "user_id,item_id\nb, 1\na,2\nb,3\nc,\n")
    assert read(None, path) == (["b", "a", "c"], [["1", "3"], ["2"], []])


def test_ids_are_those_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": [1.0, 1.0, 2.0], "item_id": [7.0, 8.0, None]}).write_parquet(path)
    assert read(None, path) == (["1", "2"], [["7", "8"], []])


def test_events_are_sorted_as_the_run_sorted_its_own(tmp_path: Path) -> None:
    rows = "reader,book,lent_at,order\na,1,1700000300,9\na,2,1700000100,10\na,1,1700000400,8\nb,,,\na,3,1700000350,7\n"
    path = users(tmp_path, "users.csv", rows)
    columns = {"user": "reader", "item": "book", "timestamp": "lent_at"}
    by_time = DataConfig.model_validate({"columns": columns | {"order": None}})
    assert read(None, path, by_time) == (["a", "b"], [["2", "1", "3", "1"], []])
    by_order = DataConfig.model_validate({"columns": columns | {"order": "order"}})
    assert read(None, path, by_order) == (["a", "b"], [["3", "1", "1", "2"], []])
    with pytest.raises(DataError, match="line 2: unreadable timestamp"):
        read(None, users(tmp_path, "bad.csv", "user_id,item_id,timestamp\na,1,soon\n"))
    with pytest.raises(DataError, match="line 3: missing order"):
        read(None, users(tmp_path, "bad.csv", "user_id,item_id,order\na,1,7\na,1,\n"))


@pytest.mark.parametrize("ties", ["hash", "file"])
def test_events_of_one_time_are_in_the_order_of_a_run(tmp_path: Path, ties: str) -> None:
    rows = "".join(f"u{n},{item},1700000000\n" for n in range(20) for item in "cab")
    path = users(tmp_path, "users.csv", "user_id,item_id,timestamp\n" + rows)
    data = DataConfig.model_validate({"interactions": str(path), "min_interactions": 1, "ties": ties})
    prepare(data, out=tmp_path / "out", log=lambda **values: None)
    dataset = load_dataset(tmp_path / "out")
    theirs = [[dataset.items[number].item_id for number in sequence.tolist()] for sequence in dataset.sequences]
    found = dict(zip(*read(None, path, data), strict=True))
    assert found == dict(zip(dataset.users, theirs, strict=True))
    assert {"".join(items) for items in theirs} == ({"cab"} if ties == "file" else set(map("".join, PERMUTATIONS)))


PERMUTATIONS = tuple(itertools.permutations("abc"))


def test_a_list_stays_as_it_is_beside_other_events_of_its_time(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    lists = pl.Series([["c", "a", "b"], ["x"], ["y"]])
    pl.DataFrame({"user_id": ["u"] * 3, "item_id": lists, "timestamp": [2, 2, 1]}).write_parquet(path)
    _, (items,) = read(None, path)
    assert items[0] == "y"
    assert "cab" in "".join(items)


def test_a_file_laid_out_like_the_runs_own_logs_is_read_like_them(tmp_path: Path) -> None:
    amazon = users(tmp_path, "reviews.csv", "user_id,parent_asin,timestamp\na,B2,1700000300\na,B1,1700000100\n")
    assert read(None, amazon) == (["a"], [["B1", "B2"]])
    older = users(tmp_path, "older.csv", "user_id,item_id,unixReviewTime\na,B2,1700000300\na,B1,1700000100\n")
    assert read(None, older, DataConfig(format="amazon2014")) == (["a"], [["B1", "B2"]])
    empty = users(tmp_path, "order.csv", "user_id,item_id,timestamp,order\na,2,1700000300,\na,1,1700000100,\n")
    assert read(None, empty) == (["a"], [["1", "2"]])


@pytest.mark.parametrize("mark", ["~", ","])
def test_a_file_may_be_parted_like_the_runs_own_logs_or_as_usual(tmp_path: Path, mark: str) -> None:
    path = users(tmp_path, "users.csv", f"user_id{mark}item_id\na{mark}1\n")
    assert read(None, path, DataConfig(delimiter="~")) == (["a"], [["1"]])


@pytest.mark.parametrize("dtype", [pl.List(pl.Int64), pl.Array(pl.Int64, 2)])
def test_a_column_of_lists_holds_whole_histories(tmp_path: Path, dtype: pl.DataType) -> None:
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": ["a", "b"], "item_id": pl.Series([[1, 2], [3, 4]], dtype=dtype)}).write_parquet(path)
    assert read(None, path) == (["a", "b"], [["1", "2"], ["3", "4"]])


def test_json_lines_may_mix_numbers_text_and_lists(tmp_path: Path) -> None:
    path = users(tmp_path, "u.jsonl", '\ufeff{"user_id": 1, "item_id": [5, "x"]}\n{"user_id": "1", "item_id": "y"}\n')
    assert read(None, path) == (["1"], [["5", "x", "y"]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.csv", "user_id,item_id\na,1\n,2\n", "line 3: missing id"),
        ("u.csv", "user_id,item_id\na,1,2\n", "line 2: wrong number of fields"),
        ("u.jsonl", '{"user_id": "a", "item_id": {"id": 1}}\n', "line 1: id is neither text nor a whole number"),
        ("u.jsonl", '{"user_id": "a", "item_id": [[1]]}\n', "line 1: id is neither"),
        ("u.csv", "user,item\na,1\n", "lacks user_id, item_id: it has user, item"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(None, users(tmp_path, name, text))


def test_bytes_that_are_no_text_become_ids_that_nothing_has() -> None:
    assert ids("a, \udce9 ,") == ["a", "\\udce9"]


def test_parquet_goes_to_a_pipe_but_never_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    check_output("parquet", None)
    write(["u"], [Recommendations(items=(Scored("i", 0.5),))], "parquet", None)
    table = pl.read_parquet(io.BytesIO(capfdbinary.readouterr().out))
    assert table.row(0, named=True)["items"] == ["i"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(DataError, match="not for a terminal"):
        check_output("parquet", None)


@pytest.mark.parametrize(
    ("format_", "output", "message"),
    [
        ("table", "x.txt", "a table is for the terminal"),
        ("json", "gone/x.jsonl", "there is no folder gone"),
        ("json", ".", "is a folder: name a file"),
    ],
)
def test_answers_that_cannot_be_written_are_refused_before_the_work(
    format_: str, output: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_output(format_, Path(output) if output else None)


def test_answers_never_replace_the_histories(tmp_path: Path) -> None:
    path = users(tmp_path, "u.jsonl", "{}")
    with pytest.raises(DataError, match="is the file of --users"):
        check_output("json", tmp_path / "." / "u.jsonl", path)


def test_a_list_of_times_beside_a_list_of_items_orders_it(tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text('{"user_id": "u", "item_id": ["b", "a", "c"], "timestamp": [20, 10, 30]}\n')
    assert read(None, path) == (["u"], [["a", "b", "c"]])
    path.write_text('{"user_id": "u", "item_id": ["b", "a"], "timestamp": [20, 10, 30]}\n')
    with pytest.raises(DataError, match="line 1: 2 items beside 3 times"):
        read(None, path)


@pytest.mark.parametrize(("content", "said"), [("", "is empty"), ("user_id,item_id\n", "has no rows below its header")])
def test_a_file_without_users_is_an_error(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "users.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        read(None, tmp_path / "users.csv")
