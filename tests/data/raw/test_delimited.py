"""Delimited text in the dialects that tools write, and the same rows however the file is cut into blocks."""

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauserec.config import DataConfig
from pauserec.data.raw import lines
from pauserec.data.raw.events import Raw, read_raw
from pauserec.data.raw.rows import open_table
from pauserec.errors import DataError

EVENTS = "user_id,item_id,timestamp\n" + "".join(f"u,{item},{n + 1}\n" for n, item in enumerate("abcd"))


def read(folder: Path, items: str, suffix: str = "csv", **options: Any) -> Raw:
    (folder / "events.csv").write_text(EVENTS)
    (folder / f"items.{suffix}").write_text(items)
    paths = {"interactions": str(folder / "events.csv"), "items": str(folder / f"items.{suffix}")}
    return read_raw(DataConfig(**paths, **options))


def titles(raw: Raw) -> list[str]:
    return [item.title for item in raw.items.values()]


def test_backslashes_before_quotation_marks_where_the_file_has_them(tmp_path: Path) -> None:
    rows = 'item_id,title\na,"12\\" lamp"\nb,"say \\"yes\\", please"\nc,"ends in 5\\""\nd,plain\n'
    raw = read(tmp_path, rows)
    assert titles(raw) == ['12" lamp', 'say "yes", please', 'ends in 5"', "plain"]
    assert raw.item_counts.quarantined == 0
    assert "backslashes before quotation marks" in raw.written


def test_a_single_row_with_backslashes_is_a_repair(tmp_path: Path) -> None:
    rows = "item_id,title\n" + "".join(f'{item},"a ""b"" \\"" c"\n' for item in "abc") + 'd,"say \\"yes\\", please"\n'
    raw = read(tmp_path, rows)
    assert raw.items["d"].title == 'say "yes", please'
    assert raw.item_counts.repairs["backslash before a quotation mark read as an escape"] == 1


def test_a_backslash_before_anything_else_is_text(tmp_path: Path) -> None:
    rows = 'item_id,title,categories\na,"A \\"big\\", one",\\N\nb,"C:\\new \\"x\\", \\\\",B\nc,C,\\N\n'
    raw = read(tmp_path, rows)
    assert [item.categories for item in raw.items.values()] == [(), ("B",), ()]
    assert titles(raw) == ['A "big", one', 'C:\\new "x", \\', "C"]
    assert read(tmp_path, rows, escape="none").item_counts.quarantined == 2


@pytest.mark.parametrize("first", ["sep=;", "SEP=;"])
def test_the_line_in_which_a_spreadsheet_names_the_delimiter_is_no_header(tmp_path: Path, first: str) -> None:
    raw = read(tmp_path, f"{first}\nitem_id;title\na;Moon, lamp\n")
    assert titles(raw) == ["Moon, lamp"]


def test_a_quoted_header_names_its_columns(tmp_path: Path) -> None:
    assert titles(read(tmp_path, "'item_id','title'\n'a','Moon, lamp'\n'b','x'\n")) == ["Moon, lamp", "x"]


def test_empty_parts_are_passed_over_and_foreign_ones_named(tmp_path: Path) -> None:
    folder = tmp_path / "events.csv"
    folder.mkdir()
    (folder / "part-0.csv").write_text("user_id,item_id,timestamp\nu,a,5\n")
    (folder / "part-1.csv").write_text("")
    assert read_raw(DataConfig(interactions=str(folder))).counts.accepted == 1
    (folder / "part-2.csv").write_text("u,b,6\nu,c,7\n")
    with pytest.raises(DataError, match=r"part-2.csv has other columns than part-0.csv \(u, b, 6\): every part needs"):
        read_raw(DataConfig(interactions=str(folder)))


def test_quotation_marks_of_a_format_without_quoting_are_text(tmp_path: Path) -> None:
    raw = read(tmp_path, 'item_id\ttitle\na\t"Moon" lamp\nb\tthe "Sun" lamp\nc\t7" lamp\nd\t"whole"\n', "tsv")
    assert titles(raw) == ['"Moon" lamp', 'the "Sun" lamp', '7" lamp', "whole"]
    assert raw.item_counts.repairs == {"quotation marks read as text": 1}


def test_quotes_can_be_named_as_text(tmp_path: Path) -> None:
    raw = read(tmp_path, 'item_id\ttitle\na\t"whole"\nb\t"open\nc\tx\nd\ty\n', "tsv", quotes="none")
    assert titles(raw) == ['"whole"', '"open', "x", "y"]


def test_single_quotation_marks_are_found(tmp_path: Path) -> None:
    raw = read(tmp_path, "item_id,title\na,'Moon, lamp'\nb,'it''s'\nc,'x'\nd,'y'\n")
    assert titles(raw) == ["Moon, lamp", "it's", "x", "y"]
    assert read(tmp_path, "item_id,title\na,~M, n~\n", quotes="~").items["a"].title == "M, n"


def test_parts_may_lie_in_folders_of_partitions(tmp_path: Path) -> None:
    for day in ("2020-01-01", "2020-01-02"):
        (tmp_path / "events.csv" / f"day={day}").mkdir(parents=True)
        (tmp_path / "events.csv" / f"day={day}" / "p.csv").write_text(f"user_id,item_id,timestamp\nu,{day},{day}\n")
    raw = read_raw(DataConfig(interactions=str(tmp_path / "events.csv")))
    assert raw.events["item_id"].to_list() == ["2020-01-01", "2020-01-02"]


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "events.csv"
    folder.mkdir()
    (folder / "_SUCCESS").write_text("")
    (folder / "part-0.csv").write_text("user_id,item_id,timestamp\nu,a,5\nu,b,\n")
    (folder / "part-1.csv").write_text("item_id,user_id,timestamp\nc,u,5\n")
    raw = read_raw(DataConfig(interactions=str(folder), ties="file"))
    assert raw.events.select("user_id", "item_id").rows() == [("u", "a"), ("u", "c")]
    assert raw.events["line"].is_sorted()
    (bad,) = raw.quarantine
    assert (bad.file, bad.line, bad.raw) == ("part-0.csv", 3, "u,b,")


FIELD = st.text(alphabet='ab1",;\\\n \t', max_size=8)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=12),
    st.integers(8, 64),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_the_csv_module_writes_is_read_in_any_blocks(
    rows: list[tuple[str, ...]], block: int, quoting: Any
) -> None:
    rows = [row for row in rows if any(field.strip() for field in row) and not any("\\" in field for field in row)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        csv.writer(out, quoting=quoting, lineterminator="\n").writerows([("user_id", "item_id", "timestamp"), *rows])
        path = Path(folder) / "x.csv"
        path.write_text(out.getvalue())
        found = []
        for size in (block, 1 << 20):
            patch.setattr(lines, "BLOCK", size)
            table = open_table(path, frozenset({"user_id", "item_id"}))
            found.append([(row.line, tuple(row.values), row.problem) for _, row in table.rows(table.columns)])
    assert found[0] == found[1]
    several = [row for row in rows if sum("\n" in field for field in row)]
    if not several:  # a record over three lines and more may look like rows with stray marks
        assert [values for _, values, _ in found[0]] == rows


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet='ab,"\n\r\0\\', max_size=120), st.integers(1, 40))
def test_any_text_gives_the_same_rows_in_any_blocks(text: str, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "x.csv"
        path.write_bytes(b"a,b\n" + text.encode())
        found = []
        for size in (block, 1 << 20):
            patch.setattr(lines, "BLOCK", size)
            found.append(
                [
                    row
                    for _, row in open_table(
                        path,
                        frozenset("ab"),
                    ).rows(("a", "b"))
                ]
            )
    assert found[0] == found[1]
