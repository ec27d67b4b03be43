"""RecBole and Amazon files are read as they are published."""

import json
from pathlib import Path

import pytest

from pauserec.config import DataConfig
from pauserec.data.dataset import check_raw
from pauserec.data.raw.events import read_raw
from pauserec.errors import DataError


def test_recbole_atomic_files(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t7\t881250949\n")
    (tmp_path / "x.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '7\t"Toy" Story\t1995\tAnimation Comedy\n'
    )
    raw = read_raw(DataConfig(source=str(tmp_path)))
    assert raw.items["7"].title == '"Toy" Story'
    assert raw.items["7"].categories == ("Animation", "Comedy")
    assert raw.counts.accepted == 1


def test_amazon_2014_with_metadata_as_python_literals(tmp_path: Path) -> None:
    review = {"reviewerID": "A1", "asin": "0001", "unixReviewTime": 1368000000, "reviewText": "good"}
    (tmp_path / "reviews_Beauty.json").write_text(json.dumps(review) + "\n")
    meta = {"asin": "0001", "title": 'Bath &amp; Body\'s "best"', "categories": [["Beauty", "Bath"], ["Gifts"]]}
    (tmp_path / "meta_Beauty.json").write_text(f"{meta!r}\n__import__('os')\n{{'asin': exit()}}\n")
    raw = read_raw(DataConfig(source=str(tmp_path)))
    assert raw.items["0001"].title == 'Bath & Body\'s "best"'
    assert raw.items["0001"].categories == ("Beauty", "Bath")
    assert raw.item_counts.reasons == {"bad or truncated JSON": 2}
    assert raw.counts.accepted == 1


def test_amazon_2023(tmp_path: Path) -> None:
    review = {"user_id": "A", "asin": "B1", "parent_asin": "P1", "timestamp": 1588687728923, "text": ""}
    (tmp_path / "All_Beauty.jsonl").write_text(json.dumps(review) + "\n")
    meta = {"parent_asin": "P1", "title": "Soap", "categories": ["Beauty", "Bath"]}
    (tmp_path / "meta_All_Beauty.jsonl").write_text(json.dumps(meta) + "\n")
    raw = read_raw(DataConfig(source=str(tmp_path)))
    assert raw.events.row(0)[:3] == ("A", "P1", 1588687728923 * 10**6)
    assert raw.items["P1"].categories == ("Beauty", "Bath")


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ([["Beauty", "Makeup"], ["Gifts"]], ("Beauty", "Makeup")),
        (["Drama", "War"], ("Drama", "War")),
        ("Beauty > Makeup > Face", ("Beauty", "Makeup", "Face")),
        (None, ()),
        ([], ()),
        ([[], ["Gifts"]], ("Gifts",)),
        ({"a": 1}, ()),
    ],
)
def test_categories_come_as_paths_labels_or_text(tmp_path: Path, value: object, labels: tuple[str, ...]) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "items.jsonl").write_text(json.dumps({"item_id": "a", "categories": value}) + "\n")
    assert read_raw(DataConfig(source=str(tmp_path))).items["a"].categories == labels


def test_a_category_separator_of_ones_own_counts_in_every_layout(tmp_path: Path) -> None:
    (tmp_path / "d.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n")
    (tmp_path / "d.item").write_text("item_id:token\tgenre:token_seq\na\tSci-Fi Film|Action Film\n")
    for separator, labels in (("|", ("Sci-Fi Film", "Action Film")), (" > ", ("Sci-Fi", "Film|Action", "Film"))):
        raw = read_raw(DataConfig(source=str(tmp_path), category_separator=separator))
        assert raw.items["a"].categories == labels


def test_the_first_title_column_that_is_not_empty_counts(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    item = {"item_id": "a", "title_clean": None, "title": " ", "pseudo_title": "words"}
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    assert read_raw(DataConfig(source=str(tmp_path))).items["a"].title == "words"


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no interactions"):
        read_raw(DataConfig(source=str(tmp_path)))
    for name in ("interactions.csv", "interactions.jsonl"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match="several candidates"):
        read_raw(DataConfig(source=str(tmp_path)))
    with pytest.raises(DataError, match="without data"):
        read_raw(DataConfig(items="items.csv"))


def test_the_name_of_a_known_data_set_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GroupLens' own archive unpacks to ml-100k, which is laid out otherwise."""
    (tmp_path / "ml-100k").mkdir()
    (tmp_path / "ml-100k" / "u.data").write_text("196\t242\t3\t881250949\n")
    monkeypatch.chdir(tmp_path)
    check_raw(DataConfig(source="ml-100k"))
    with pytest.raises(DataError, match="has no interactions"):
        check_raw(DataConfig(source="./ml-100k"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {"order": "postion"}}, "no column 'postion' among .*data.columns.order"),
        ({"columns": {"timestamp": "tmie"}}, "no column 'tmie' among .*data.columns.timestamp"),
        ({"item_columns": {"title": ["nmae", "nam"]}}, "no column 'nmae' or 'nam' among .*data.item_columns.title"),
        ({"item_columns": {"categories": ["x"]}}, "no column 'x' among .*data.item_columns.categories"),
    ],
)
def test_a_column_that_was_named_must_be_there(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,position\nu,a,1,1\n")
    (tmp_path / "items.csv").write_text("item_id,name\na,Soap\n")
    with pytest.raises(DataError, match=message):
        read_raw(DataConfig.model_validate({"source": str(tmp_path)} | settings))


def test_recbole_headers_are_known_whatever_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "events.tsv").write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t7\t881250949\n")
    raw = read_raw(DataConfig(interactions=str(tmp_path / "events.tsv"), format="recbole"))
    assert raw.counts.accepted == 1


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "meta_x.json"])
def test_markup_is_cleaned_alike_in_every_layout(tmp_path: Path, name: str) -> None:
    title = '<span id="x" class="y">Salt &amp; Stone&#39;s</span> <b>lamp</b> 3 <s_a_1> 1 < 2'
    if name.endswith("csv"):
        quoted = title.replace('"', '""')
        (tmp_path / name).write_text(f'item_id,title\na,"{quoted}"\n')
    else:
        key = "parent_asin" if name.startswith("meta") else "item_id"
        (tmp_path / name).write_text(json.dumps({key: "a", "title": title}) + "\n")
    events = "user_id,parent_asin,timestamp" if name.startswith("meta") else "user_id,item_id,timestamp"
    (tmp_path / "events.csv").write_text(f"{events}\nu,a,1\n")
    paths = {"interactions": str(tmp_path / "events.csv"), "items": str(tmp_path / name)}
    raw = read_raw(DataConfig(**paths))
    assert raw.items["a"].title == "Salt & Stone's lamp 3 <s_a_1> 1 < 2"
    assert raw.item_counts.repairs["HTML removed"] == 1
    assert read_raw(DataConfig(**paths, html="keep")).items["a"].title == title


@pytest.mark.parametrize(
    "value",
    [
        "['Lamps', 'Desk']",
        '["Lamps", "Desk"]',
        "[['Lamps', 'Desk'], ['Gifts']]",
        "Lamps > Desk",
        "Lamps|Desk",
        "('Lamps', 'Desk')",
        "['Lamps' 'Desk']",
        "['Lamps'\n 'Desk']",
        "['Lamps', 'Desk', nan]",
        "Lamps &gt; Desk",
        "[{'id': 1, 'name': 'Lamps'}, {'id': 2, 'name': 'Desk'}]",
    ],
)
def test_lists_written_as_text_are_lists(tmp_path: Path, value: str) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (tmp_path / "items.jsonl").write_text(json.dumps({"item_id": "a", "title": "T", "categories": value}) + "\n")
    assert read_raw(DataConfig(source=str(tmp_path))).items["a"].categories == ("Lamps", "Desk")


def test_events_that_are_python_dicts_are_read_and_never_evaluated(tmp_path: Path) -> None:
    rows = [{"user_id": "u", "item_id": item, "timestamp": n} for n, item in enumerate("abc")]
    path = tmp_path / "events.json"
    path.write_text("".join(f"{row!r}\n" for row in rows) + "{'user_id': exit()}\n")
    raw = read_raw(DataConfig(interactions=str(path)))
    assert raw.events["item_id"].to_list() == ["a", "b", "c"]
    assert raw.counts.reasons == {"bad or truncated JSON": 1}
