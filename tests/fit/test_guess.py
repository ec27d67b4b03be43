"""Columns are found by their names, by the other file, and by their values; what the person says counts more."""

from pathlib import Path

import pytest

from pauserec.config import Columns, DataConfig, ItemColumns
from pauserec.errors import DataError
from pauserec.fit.guess import find_columns


def table(path: Path, header: str, row: str, rows: int = 200) -> str:
    """A text table; `row` is a format of {n}, {user} and {item}."""
    lines = [row.format(n=n, user=n % 23, item=n * 7 % 31, time=1_700_000_000 + 60 * n) for n in range(rows)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def columns(config: DataConfig) -> tuple[str, str, str | None]:
    return config.columns.user, config.columns.item, config.columns.timestamp


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("customer,product,bought_at", "c{user},p{item},{time}", ("customer", "product", "bought_at")),
        ("userId,movieId,rating,timestamp", "{user},{item},4.0,{time}", ("userId", "movieId", "timestamp")),
        ("ts;visitorid;event;itemid", "{time};{user};view;{item}", ("visitorid", "itemid", "ts")),
        (
            "InvoiceNo;StockCode;Description;Quantity;InvoiceDate;UnitPrice;CustomerID;Country",
            "{n};S{item};Thing {item};3;01.12.2010 08:26;2.55;{user};UK",
            ("CustomerID", "StockCode", "InvoiceDate"),
        ),
        ("user_id,item_id,timestamp", "u{user},i{item},{time}", ("user_id", "item_id", "timestamp")),
    ],
)
def test_columns_are_found_by_their_names(
    tmp_path: Path, header: str, row: str, expected: tuple[str, str, str]
) -> None:
    found = find_columns(DataConfig(interactions=table(tmp_path / "e.csv", header, row)))
    assert columns(found.data) == expected
    assert found.lines[0].startswith("e.csv: ")


def test_names_that_say_nothing_are_found_by_the_other_file_and_by_values(tmp_path: Path) -> None:
    events = table(tmp_path / "e.csv", "who,what,x", "u{user},p{item},{time}")
    items = tmp_path / "i.csv"
    items.write_text("ref,blurb,colour\n" + "".join(f"p{n},A nice thing {n},red\n" for n in range(31)))
    found = find_columns(DataConfig(interactions=events, items=str(items)))
    assert columns(found.data) == ("who", "what", "x")
    assert found.data.item_columns == ItemColumns(item="ref", title=("blurb",), categories=())


def test_titles_and_categories_are_found(tmp_path: Path) -> None:
    events = table(tmp_path / "e.csv", "reader,isbn,lent_at", "r{user},b{item},{time}")
    items = tmp_path / "i.csv"
    items.write_text("isbn,name,shelf,price\n" + "".join(f"b{n},Book {n},Novels,3.20\n" for n in range(31)))
    found = find_columns(DataConfig(interactions=events, items=str(items))).data.item_columns
    assert (found.item, found.title, found.categories) == ("isbn", ("name",), ("shelf",))


def test_what_the_person_says_counts_more(tmp_path: Path) -> None:
    events = table(tmp_path / "e.csv", "customer,household,product,at", "c{n},h{user},p{item},{time}")
    config = DataConfig(interactions=events, columns=Columns(user="household"))
    assert columns(find_columns(config, {"data.columns.user"}).data)[0] == "household"


def test_without_a_time_the_order_of_the_file_counts(tmp_path: Path) -> None:
    found = find_columns(DataConfig(interactions=table(tmp_path / "e.csv", "user,item", "u{user},i{item}"))).data
    assert found.columns.timestamp is None
    assert found.ties == "file"


def test_columns_that_cannot_be_told_are_an_error_with_the_remedy(tmp_path: Path) -> None:
    path = table(tmp_path / "e.csv", "a,b", "1,2")
    with pytest.raises(DataError, match=r"no column of \['a', 'b'\] looks like the user's.*--set data.columns.user="):
        find_columns(DataConfig(interactions=path))
