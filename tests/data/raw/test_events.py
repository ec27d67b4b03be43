"""Every class of bad input ends as accepted, repaired or quarantined with its line and reason."""

import bz2
import gzip
import json
import lzma
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pauserec.config import Columns, DataConfig
from pauserec.data.raw.events import Raw, read_raw
from pauserec.errors import DataError

TITLES = "item_id,title\n" + "".join(f"{name},Title {name}\n" for name in "abcdef")
HEADER = "user_id,item_id,timestamp\n"


def read(folder: Path, events: str | bytes, items: str | bytes | None = TITLES, **settings: Any) -> Raw:
    """Write both files (suffix by content) and read them; the accounting identity holds in every test."""
    paths: dict[str, str] = {}
    for name, content in (("interactions", events), ("items", items)):
        if content is None:
            continue
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        path = folder / f"{name}.{'jsonl' if data.lstrip().startswith(b'{') else 'csv'}"
        path.write_bytes(data)
        paths[name] = str(path)
    raw = read_raw(DataConfig(**paths, **settings))
    for counts in (raw.counts, raw.item_counts):
        assert counts.accepted + counts.repaired + counts.quarantined == counts.read
        assert sum(counts.reasons.values()) == counts.quarantined
    assert len(raw.quarantine) == raw.counts.quarantined + raw.item_counts.quarantined
    assert all(row.line > 0 and row.reason and len(row.raw) <= 5000 for row in raw.quarantine)
    return raw


def lines(*records: Any) -> str:
    return "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)


def event(user: Any = "u", item: Any = "a", timestamp: Any = 100) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "timestamp": timestamp}


def reasons(raw: Raw) -> list[tuple[int, str]]:
    return sorted((row.line, row.reason) for row in raw.quarantine)


def test_duplicate_events_are_quarantined_with_line_and_text(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + "u,a,1\nu,b,2\nu,a,1\n")
    assert reasons(raw) == [(4, "duplicate event")]
    assert raw.quarantine[0].raw == "u,a,1"
    assert raw.quarantine[0].file == "interactions.csv"


def test_the_same_item_at_another_time_is_no_duplicate(tmp_path: Path) -> None:
    assert read(tmp_path, HEADER + "u,a,1\nu,a,2\n").counts.accepted == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "missing timestamp"),
        ("NaN", "missing timestamp"),
        ("-5", "negative timestamp"),
        (str(int(time.time()) + 3 * 86_400), "future timestamp"),
        ("yesterday", "unreadable timestamp"),
        ("inf", "unreadable timestamp"),
        ("9" * 30, "future timestamp"),
        ("²", "unreadable timestamp"),
    ],
)
def test_timestamps_that_cannot_be_used(tmp_path: Path, value: str, reason: str) -> None:
    assert reasons(read(tmp_path, HEADER + f"u,a,{value}\nu,b,7\n")) == [(2, reason)]


@pytest.mark.parametrize("value", ["", "-5", "yesterday", "99999999999"])
def test_an_order_column_outweighs_a_bad_timestamp(tmp_path: Path, value: str) -> None:
    raw = read(tmp_path, f"user_id,item_id,order,timestamp\nu,a,1,{value}\nu,b,0,50\n")
    assert raw.ordered_by == "order"
    assert (raw.counts.accepted, raw.counts.repaired) == (1, 1)


def test_a_row_without_its_order_is_quarantined(tmp_path: Path) -> None:
    raw = read(tmp_path, "user_id,item_id,order\nu,a,0\nu,b,\nu,c,third\n")
    assert reasons(raw) == [(3, "missing order"), (4, "unreadable order")]


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("1700000000", "seconds"),
        ("1700000000.0", "seconds"),
        ("1700000000000", "milliseconds"),
        ("1700000000000000", "microseconds"),
        ("1700000000000000000", "nanoseconds"),
        ("2023-11-14T22:13:20Z", "ISO 8601"),
        ("2023-11-14 22:13:20", "ISO 8601"),
        ("2023-11-15T00:13:20+02:00", "ISO 8601"),
    ],
)
def test_units_of_time_are_told_apart(tmp_path: Path, value: str, unit: str) -> None:
    raw = read(tmp_path, HEADER + f"u,a,{value}\n")
    assert raw.events["time"].to_list() == [1_700_000_000 * 10**9]
    assert raw.counts.notes == {f"timestamps in {unit}": 1}


def test_unknown_items_are_quarantined(tmp_path: Path) -> None:
    assert reasons(read(tmp_path, HEADER + "u,zzz,1\nu,a,2\n")) == [(2, "unknown item")]


def test_without_an_items_file_every_item_is_known_and_has_no_text(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + "u,zzz,1\n", None)
    assert raw.without_text
    assert raw.items["zzz"].title == ""


def test_titles_missing_empty_huge_and_in_any_script(tmp_path: Path) -> None:
    titles = [None, "", "x" * 1_000_000, "شامبو للشعر", "👩‍👩‍👧 kit", "e\u0301te\u0301", "a\x00b\nc", "x\ud800y"]
    items = lines(*({"item_id": str(n), "title": title} for n, title in enumerate(titles)), {"item_id": "8"})
    raw = read(tmp_path, HEADER + "u,0,1\n", items)
    kept = [raw.items[str(n)].title for n in range(9)]
    assert kept == ["", "", "x" * 512, "شامبو للشعر", "👩‍👩‍👧 kit", "e\u0301te\u0301", "ab c", "xy", ""]
    assert raw.item_counts.repaired == 3
    assert raw.item_counts.notes["empty title"] == 3


def test_a_title_of_one_megabyte_in_a_quoted_field_is_cut(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + "u,a,1\n", 'item_id,title\na,"' + "x," * 500_000 + '"\n')
    assert len(raw.items["a"].title) == 512


def test_control_tokens_in_titles_stay_text(tmp_path: Path) -> None:
    title = "<|sid_begin|><s_a_1> <pause> <|im_end|>"
    assert read(tmp_path, HEADER + "u,a,1\n", lines({"item_id": "a", "title": title})).items["a"].title == title


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), "NaN", "null"])
def test_missing_ids(tmp_path: Path, value: Any) -> None:
    raw = read(tmp_path, lines(event(), event(user=value), event(item=value)))
    assert reasons(raw) == [(2, "user: missing id"), (3, "item: missing id")]


def test_numbers_of_ids_with_a_gap_leave_the_gap_out(tmp_path: Path) -> None:
    raw = read(tmp_path, lines(event(1), event(None), event(3)))
    assert raw.events["user_id"].to_list() == ["1", "3"]
    assert reasons(raw) == [(2, "user: missing id")]


def test_int_and_text_ids_are_one_and_spelling_counts(tmp_path: Path) -> None:
    users = [1, "1", 1.0, "01", "1.0", 2**53 + 1, 2**70 + 1]
    raw = read(tmp_path, lines(*(event(user, timestamp=n) for n, user in enumerate(users))))
    assert raw.events["user_id"].to_list() == ["1", "1", "1", "01", "1.0", str(2**53 + 1), str(2**70 + 1)]
    assert raw.counts.repairs == {"float id written as a whole number": 1}


def test_float_ids_that_may_have_lost_digits_are_no_ids(tmp_path: Path) -> None:
    raw = read(tmp_path, lines(event(float(2**53 - 1)), event(float(2**53))))
    assert raw.events["user_id"].to_list() == [str(2**53 - 1)]
    assert reasons(raw) == [(2, "user: float id of 2^53 or more has lost digits")]
    users = pl.Series([2.0**24 - 1, 2.0**24], dtype=pl.Float32)
    pl.DataFrame({"user_id": users, "item_id": [1, 2], "timestamp": [1, 2]}).write_parquet(tmp_path / "x.parquet")
    raw = read_raw(DataConfig(interactions=str(tmp_path / "x.parquet")))
    assert raw.events["user_id"].to_list() == [str(2**24 - 1)]
    assert reasons(raw) == [(2, "user: float id of 2^24 or more has lost digits")]


@pytest.mark.parametrize("title", [["A"], {"en": "B"}, True, "\x00\x01"])
def test_a_title_that_is_left_out_is_counted(tmp_path: Path, title: Any) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "items.jsonl").write_text(lines({"item_id": "a", "title": title}))
    raw = read_raw(DataConfig(source=str(tmp_path)))
    assert raw.items["a"].title == ""
    assert sum(raw.item_counts.repairs.values()) == 1


@pytest.mark.parametrize("value", [True, 1.5, 1e300, ["u"], {"id": "u"}])
def test_ids_of_other_types(tmp_path: Path, value: Any) -> None:
    assert read(tmp_path, lines(event(), event(user=value))).counts.quarantined == 1


def test_bad_and_truncated_json_lines(tmp_path: Path) -> None:
    raw = read(tmp_path, lines(event(), '{"user_id": "u", "item', "[1, 2]", "", event(item="b"), "[" * 100_000))
    assert reasons(raw) == [
        (2, "bad or truncated JSON"),
        (3, "JSON line is not an object"),
        (6, "bad or truncated JSON"),
    ]
    assert raw.counts.read == 5


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    raw = read(tmp_path, b"\xef\xbb\xbf" + (HEADER + "u,a,1\nu,b,2\n").replace("\n", "\r\n").encode())
    assert (raw.counts.accepted, raw.events["item_id"].to_list()) == (2, ["a", "b"])


@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
def test_the_delimiter_is_found_from_the_header(tmp_path: Path, mark: str) -> None:
    assert read(tmp_path, (HEADER + "u,a,1\n").replace(",", mark)).counts.accepted == 1


def test_a_wrong_delimiter_names_the_columns_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'user_id' among \['user_id,item_id,timestamp'\].*data.delimiter"):
        read(tmp_path, HEADER + "u,a,1\n", delimiter=";")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_mark_at_the_beginning_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    raw = read(tmp_path, (HEADER + "José,a,1\n").encode(encoding))
    assert raw.events["user_id"].to_list() == ["José"]


def test_other_encodings_are_refused_with_a_remedy_or_named_by_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'data.encoding="utf-16-le", or convert it with iconv'):
        read(tmp_path, (HEADER + "u,a,1\n").encode("utf-16-le"))
    for encoding in ("utf-16-le", "windows-1252"):
        events = (HEADER + "José,a,1\n").encode(encoding)
        raw = read(tmp_path, events, TITLES.encode(encoding), encoding=encoding)
        assert raw.events["user_id"].to_list() == ["José"]


def test_a_line_that_is_not_utf8(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER.encode() + b"u,a,1\nJos\xe9,b,2\n")
    assert reasons(raw) == [(3, "line is not UTF-8")]
    assert raw.quarantine[0].raw == "Jos\\xe9,b,2"


def test_nul_in_a_row_is_removed(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + "u\0,a,1\n")
    assert (raw.counts.repaired, raw.events["user_id"].to_list()) == (1, ["u"])


def test_quoted_newlines_are_one_row_and_an_open_quote_swallows_nothing(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + "u,a,1\n", 'item_id,title\na,"two\nlines, ""quoted"""\nb,"open\nc,C\nd,D\n')
    assert raw.items["a"].title == 'two lines, "quoted"'
    assert set(raw.items) == {"a", "c", "d"}
    assert reasons(raw) == [(4, "bad quoting")]


def test_a_stray_quote_that_meets_another_swallows_nothing(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + 'u,a,"1\nu,b,2\nu,c,3"\nu,d,4\n')
    assert reasons(raw)[0] == (2, "bad quoting")
    assert {"b", "d"} <= set(raw.events["item_id"])


def test_a_row_over_several_lines_is_counted(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + "u,a,1\n", 'item_id,title\na,"two\nlines"\n')
    assert dict(raw.item_counts.as_dict())["repairs"] == {"quoted over several lines": 1, "whitespace normalised": 1}


def test_a_parquet_time_outside_the_calendar_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "interactions.parquet"
    for dtype, far in ((pl.Datetime("us"), 4 * 10**18), (pl.Datetime("ms"), 4 * 10**15), (pl.Date, 2 * 10**8)):
        times = pl.Series([0, far, None], dtype=pl.Int64 if dtype != pl.Date else pl.Int32).cast(dtype)
        pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": times}).write_parquet(path)
        raw = read_raw(DataConfig(interactions=str(path)))
        assert raw.events["item_id"].to_list() == ["a"]
        assert reasons(raw) == [(2, "unreadable timestamp"), (3, "missing timestamp")]


def test_orders_of_nineteen_digits_keep_every_digit(tmp_path: Path) -> None:
    rows = "".join(f"u,{item},{1_600_000_000_000_000_000 + n}\n" for n, item in enumerate("abcdefgh"))
    raw = read(tmp_path, "user_id,item_id,order\n" + rows, None)
    assert raw.events.sort("time")["item_id"].to_list() == list("abcdefgh")


def test_rows_with_too_few_or_too_many_fields(tmp_path: Path) -> None:
    raw = read(tmp_path, HEADER + "u,a\nu,a,1,2\nu,a,1\n")
    assert reasons(raw) == [(2, "wrong number of fields"), (3, "wrong number of fields")]


def test_of_duplicate_items_the_richest_is_kept_in_either_order(tmp_path: Path) -> None:
    rows = [{"item_id": "a"}, {"item_id": "a", "title": "T", "categories": ["C"]}, {"item_id": "a", "title": "Z"}]
    for order in (rows, rows[::-1]):
        raw = read(tmp_path, HEADER + "u,a,1\n", lines(*order))
        assert raw.items["a"].categories == ("C",)
        assert raw.item_counts.reasons == {"duplicate item": 2}


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_empty_files(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path, content)
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path, HEADER + "u,a,1\n", content)


def test_missing_columns_name_what_was_found_and_the_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'item_id' among .*'product'.*data.columns.item"):
        read(tmp_path, "user_id,product,timestamp\nu,a,1\n")
    with pytest.raises(DataError, match="neither a timestamp"):
        read(tmp_path, "user_id,item_id\nu,a\n")
    with pytest.raises(DataError, match=r"no column 'item_id'.*data.item_columns.item"):
        read(tmp_path, HEADER + "u,a,1\n", "sku,title\na,A\n")


def test_a_file_already_in_time_order_needs_no_time(tmp_path: Path) -> None:
    settings = {"ties": "file", "columns": Columns(timestamp=None, order=None)}
    assert read(tmp_path, "user_id,item_id\nu,b\nu,a\n", **settings).ordered_by == "file"


def test_columns_are_mapped_by_the_recipe(tmp_path: Path) -> None:
    columns = Columns(user="who", item="what", timestamp="when")
    raw = read(tmp_path, "when;what;who\n5;a;u\n", columns=columns)
    assert raw.events.row(0)[:2] == ("u", "a")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read_as_they_are(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert read(tmp_path, pack((HEADER + "u,a,1\n").encode())).counts.accepted == 1


def test_lines_may_end_in_a_carriage_return_alone(tmp_path: Path) -> None:
    raw = read(tmp_path, (HEADER + "u,a,1\nu,b,2\n").replace("\n", "\r"))
    assert raw.events["item_id"].to_list() == ["a", "b"]


def test_damaged_gzip(tmp_path: Path) -> None:
    packed = gzip.compress((HEADER + "u,a,1\n" * 1000).encode())
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        read(tmp_path, packed[:-9])


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"no parquet"])
def test_damaged_parquet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "interactions.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="Parquet"):
        read_raw(DataConfig(interactions=str(path)))


def test_parquet_and_gzip_are_read_like_text(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1.0, None], "item_id": [2**60, 5], "timestamp": ["5", "6"]}, strict=False)
    frame.write_parquet(tmp_path / "interactions.parquet")
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress(lines({"item_id": 2**60, "title": "T"}).encode()))
    raw = read_raw(DataConfig(source=str(tmp_path)))
    assert raw.events.row(0)[:2] == ("1", str(2**60))
    assert reasons(raw) == [(2, "user: missing id")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv.zip", b"PK\x03\x04rest", "zip archive: unpack it"),
        ("x.json", b'[\n{"user_id": 1}\n]', "one JSON array: write an object per line"),
        ("x.jsonl", b'{\n "user_id": 1\n}', "no line is a JSON object"),
        ("x.csv.bz2", b"BZh9rest", "damaged or truncated bzip2 file"),
        ("x.csv.zst", b"\x28\xb5\x2f\xfdrest", "compressed by zstd: unpack it"),
        ("x.feather", b"ARROW1rest", "write it as Parquet"),
        ("x.db", b"SQLite format 3", "write its table as CSV"),
        ("x.parquet", b"\x1f\x8brest", "compressed by gzip: unpack it"),
    ],
)
def test_archives_and_arrays_say_what_to_do(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_raw(DataConfig(interactions=str(tmp_path / name)))


def test_of_two_files_the_one_that_was_named_is_read(tmp_path: Path) -> None:
    for name, user in (("events1.parquet", "other"), ("events[1].parquet", "mine")):
        pl.DataFrame({"user_id": [user], "item_id": ["a"], "timestamp": [1]}).write_parquet(tmp_path / name)
    raw = read_raw(DataConfig(interactions=str(tmp_path / "events[1].parquet")))
    assert raw.events["user_id"].to_list() == ["mine"]


def test_decimal_ids_of_a_warehouse_are_whole_numbers(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"user_id": [Decimal(1), Decimal(2)], "item_id": [Decimal(7), Decimal("7.5")], "timestamp": [1, 2]}
    )
    frame.write_parquet(tmp_path / "events.parquet")
    raw = read_raw(DataConfig(interactions=str(tmp_path / "events.parquet")))
    assert raw.events.select("user_id", "item_id").rows() == [("1", "7")]
    assert raw.counts.reasons == {"item: id is neither text nor a whole number": 1}


@pytest.mark.parametrize("header", [",user_id,parent_asin,timestamp\n", ",user_id,item_id,timestamp\n"])
def test_a_column_without_a_name_is_no_order(tmp_path: Path, header: str) -> None:
    """pandas writes its index so."""
    items = TITLES.replace("item_id", "parent_asin") if "asin" in header else TITLES
    columns = Columns(order=None) if "item_id" in header else Columns()
    raw = read(tmp_path, header + "2,u,a,100\n0,u,b,200\n1,u,c,300\n", items, columns=columns)
    assert raw.ordered_by == "timestamp"
    assert raw.events.sort("time")["item_id"].to_list() == ["a", "b", "c"]


def test_decimal_times_and_orders_of_a_warehouse_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    frame = {
        "user_id": ["u"] * 2,
        "item_id": ["a", "b"],
        "timestamp": [Decimal("1700000000"), Decimal("1700000001.50")],
    }
    pl.DataFrame(frame).write_parquet(path)
    raw = read_raw(DataConfig(interactions=str(path)))
    assert raw.events["time"].to_list() == [1_700_000_000 * 10**9, 1_700_000_001_500_000_000]
    pl.DataFrame(frame | {"order": [Decimal(2), Decimal(1)]}).write_parquet(path)
    raw = read_raw(DataConfig(interactions=str(path), columns=Columns(order="order")))
    assert (raw.ordered_by, raw.events["time"].to_list()) == ("order", [2, 1])


def test_which_of_two_equal_events_stands_first_changes_nothing(tmp_path: Path) -> None:
    rows = ["u,a,1400000000,1\n", "u,a,1600000000000,1\n", "u,b,1500000000,2\n"]
    header = "user_id,item_id,timestamp,order\n"
    named = Columns(order="order")
    found = [read(tmp_path, header + "".join(order), columns=named) for order in (rows, rows[::-1])]
    assert found[0].events.drop("line").sort("item_id").equals(found[1].events.drop("line").sort("item_id"))
    items = ["a,Soap\n", "a,  Soap \n"]
    found = [read(tmp_path, HEADER + "u,a,1\n", "item_id,title\n" + "".join(order)) for order in (items, items[::-1])]
    assert [raw.item_counts.accepted for raw in found] == [1, 1]
