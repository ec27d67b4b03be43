"""Exports: another library that takes the last two events of each user meets exactly our split."""

import csv
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pauserec.data.dataset import load_dataset
from pauserec.data.exports import export, recbole
from pauserec.errors import DataError, RunError
from pauserec.records import Dataset, Item


def test_recbole_files_hold_every_event_in_order(tiny_run: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_run / "dataset")
    events, items = export(tiny_run, tmp_path, "recbole", "ring")
    assert (events, items) == (tmp_path / "ring" / "ring.inter", tmp_path / "ring" / "ring.item")
    header, *lines = events.read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 3 for row in rows)
    for user, sequence in zip(dataset.users, dataset.sequences, strict=True):
        own = sorted((float(place), item) for name, item, place in rows if name == user)
        assert [item for _, item in own] == [dataset.items[item].item_id for item in sequence]
    assert len(items.read_text().splitlines()) == 1 + len(dataset.items)
    assert all(line.count("\t") == 2 for line in items.read_text().splitlines())


@pytest.mark.parametrize("form", ["recbole", "rectools"])
def test_files_that_stand_there_are_not_replaced(tiny_run: Path, tmp_path: Path, form: str) -> None:
    paths = export(tiny_run, tmp_path, form, "ring")
    for path in paths:
        path.write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        export(tiny_run, tmp_path, form, "ring")
    assert {path.read_text() for path in paths} == {"mine"}


def test_recbole_titles_with_quotation_marks_are_read_as_they_are(tmp_path: Path) -> None:
    """RecBole reads with pandas.read_csv(sep="\\t"), whose quoting is that of the standard library's csv."""
    titles = ('"Quoted" soap', 'soap "for" all', '"', "plain")
    items = tuple(Item(str(number), title) for number, title in enumerate(titles))
    dataset = Dataset(items, ("u",), (np.arange(4),), "print")
    _, path = recbole(dataset, tmp_path, "x")
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert [row[1] for row in rows[1:]] == list(titles)


def test_rectools_frames_name_the_split(tiny_run: Path, tmp_path: Path) -> None:
    dataset = load_dataset(tiny_run / "dataset")
    events, items = (pl.read_parquet(path) for path in export(tiny_run, tmp_path, "rectools", ""))
    assert len(events) == dataset.interactions
    for split, back in (("test", 1), ("validation", 2)):
        found = dict(events.filter(pl.col("split") == split).select("user_id", "item_id").iter_rows())
        expected = {u: dataset.items[s[-back]].item_id for u, s in zip(dataset.users, dataset.sequences, strict=True)}
        assert found == expected
    ordered = events.sort("user_id", "datetime")
    last = ordered.group_by("user_id", maintain_order=True).last()
    assert (last["split"] == "test").all()
    assert items["item_id"].to_list() == [item.item_id for item in dataset.items]


@pytest.mark.parametrize("name", ["../out", "", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="--name"):
        recbole(Dataset((Item("a"),), ("u",), (np.zeros(3, np.int64),), ""), tmp_path / "to", name)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_recbole_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    dataset = Dataset((Item("a"),), ("u 1", "u  1"), (np.zeros(3, np.int64),) * 2, "")
    with pytest.raises(DataError, match="two users differ in whitespace alone"):
        recbole(dataset, tmp_path, "d")


def test_a_run_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        export(tmp_path, tmp_path, "recbole", "x")


def test_a_place_that_is_no_folder_is_named(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for form in ("recbole", "rectools"):
        with pytest.raises(DataError, match="cannot be made"):
            export(tiny_run, tmp_path / "file", form, "x")


def test_a_data_set_that_was_changed_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    (copy / "dataset" / "histories.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="--redo dataset"):
        export(copy, tmp_path / "out", "rectools", "")


def test_ids_that_recbole_would_read_as_missing_are_refused_by_name(tmp_path: Path) -> None:
    items = tuple(Item(item, "T") for item in ("a", "NA", "n/a"))
    dataset = Dataset(items, ("u",), (np.array([0, 1, 2]),), "fingerprint")
    with pytest.raises(DataError, match="RecBole reads these items as missing: 'NA', 'n/a': export for RecTools"):
        recbole(dataset, tmp_path, "x")
    assert not list(tmp_path.iterdir())
