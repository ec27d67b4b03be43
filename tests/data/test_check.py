"""`pauserec data check` as a user sees it: the counts add up, the faulty rows are in the file, errors are one line."""

import re
import subprocess
from pathlib import Path

import orjson
import pytest

from commands import cli

EVENTS = [f"u{user},i{item},{1_700_000_000 + 10 * user + item}" for user in range(5) for item in range(5)]


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cli("data", "check", *arguments, folder=folder)


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("check")
    faults = ["u0,i9,1700000500", "u1,i1,-5", " u2 ,i2,1700000600"]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *EVENTS, *faults]))
    (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"i{n},[red]t{n}[/]" for n in range(5))]))
    return folder, check(folder, "--interactions", "events.csv", "--items", "items.csv", "--out", "quarantine.jsonl")


def rows(text: str) -> dict[str, int]:
    """The last number printed for each class."""
    return {label.strip(): int(number) for label, number in re.findall(r"│[^│]*│([^│]+)│\s*(\d+)\s*│", text)}


def test_counts_add_up_class_by_class(printed) -> None:
    _, done = printed
    assert done.returncode == 0
    interactions = rows(done.stdout.partition("├")[0])
    assert interactions["read"] == 28
    assert interactions["accepted"] + interactions["repaired"] + interactions["quarantined"] == 28
    assert interactions["unknown item"] == interactions["negative timestamp"] == interactions["id trimmed"] == 1
    assert rows(done.stdout)["interactions after filtering"] == 25


def test_the_quarantine_file_has_line_and_reason(printed) -> None:
    folder, _ = printed
    lines = [orjson.loads(line) for line in (folder / "quarantine.jsonl").read_bytes().splitlines()]
    assert [(line["line"], line["reason"]) for line in lines] == [(27, "unknown item"), (28, "negative timestamp")]


def test_nothing_is_written_unless_asked(printed, tmp_path: Path) -> None:
    folder, _ = printed
    (tmp_path / "events.csv").write_bytes((folder / "events.csv").read_bytes())
    assert check(tmp_path, "--interactions", "events.csv").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]


def test_what_was_decided_is_said_with_its_evidence(printed) -> None:
    _, done = printed
    assert "events.csv: text parted by ','" in done.stdout
    assert re.search(r"times in seconds \(\d+\.\d% of the values fit\), 2023-11-14 to 2023-11-14", done.stdout)


def test_the_quarantine_never_replaces_a_file_that_is_read(printed) -> None:
    folder, _ = printed
    before = (folder / "events.csv").read_text()
    done = check(folder, "--interactions", "events.csv", "--quarantine", "./events.csv")
    assert done.returncode == 2
    assert "is a file that is read" in done.stderr
    assert (folder / "events.csv").read_text() == before


def test_items_without_events_are_counted(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *EVENTS]))
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *(f"i{n},t{n}" for n in range(7))]))
    done = check(tmp_path, "--interactions", "events.csv", "--items", "items.csv")
    assert rows(done.stdout)["accepted items without a usable event"] == 2


def test_an_unusable_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("a,b\n1,2\n")
    for arguments in (("--interactions", "events.csv"), ("--interactions", "none.csv")):
        done = check(tmp_path, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]
