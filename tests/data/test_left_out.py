"""What is left out is said, with its reason and a remedy, and too much of it is an error that names the file at fault."""

from pathlib import Path
from typing import Any

import pytest

from commands import cli
from pauserec.config import DataConfig
from pauserec.data.dataset import prepare
from pauserec.errors import DataError

USERS = [f"u{user},i{item},{1_600_000_000 + 100 * user + item}" for user in range(8) for item in range(6)]
ITEMS = [f"i{item},Lamp {item}" for item in range(6)]


def prepared(folder: Path, events: list[str], items: list[str] | None, **settings: Any) -> dict[str, Any]:
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]))
    paths = {"interactions": str(folder / "events.csv")}
    if items is not None:
        (folder / "items.csv").write_bytes("\n".join(["item_id,title", *items]).encode("latin-1"))
        paths["items"] = str(folder / "items.csv")
    return prepare(DataConfig(**paths, min_interactions=1, **settings), out=folder / "out", log=lambda **_: None)


def test_clean_data_have_nothing_to_say(tmp_path: Path) -> None:
    assert prepared(tmp_path, USERS, ITEMS)["left_out"] == ""


def test_a_loss_of_a_percent_is_a_warning_with_its_reasons(tmp_path: Path) -> None:
    events = [*USERS, "u0,i1,", *(f"u{user},x,1600000900" for user in range(3))]
    with pytest.warns(
        UserWarning, match=r"^4 of 52 interactions and 1 of 7 items left out \(3 unknown item, 1 missing"
    ):
        summary = prepared(tmp_path, events, [*ITEMS, "x,Caf\xe9"])
    assert summary["left_out"].endswith("1 line is not UTF-8)")


def test_duplicates_are_no_loss(tmp_path: Path) -> None:
    summary = prepared(tmp_path, [*USERS, *USERS], ITEMS)
    assert (summary["left_out"], summary["quarantined"]) == ("", len(USERS))


def test_half_of_a_file_is_an_error_unless_asked_for(tmp_path: Path) -> None:
    events = [*USERS, *(f"u{user},{user},1600000900" for user in range(60))]
    with pytest.raises(DataError, match=r"60 x unknown item.*set data.max_loss to go on"):
        prepared(tmp_path, events, ITEMS)
    with pytest.warns(UserWarning, match="60 of 108 interactions left out"):
        assert prepared(tmp_path, events, ITEMS, max_loss=0.9)["interactions"] == len(USERS)


def test_the_file_at_fault_is_named_first_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^no usable interaction: of 6 items read, 6 were .*; of 48 inter.*data.encoding"
    ):
        prepared(tmp_path, USERS, [f"i{item},Caf\xe9" for item in range(6)])
    items = [f"i{item},Caf\xe9 {item}" for item in range(6)]
    assert prepared(tmp_path, USERS, items, encoding="windows-1252")["left_out"] == ""


@pytest.mark.parametrize(
    ("events", "items", "rule", "said"),
    [
        ("{}.0", "{}", ["decimal"], "look like '100.0', those of items.csv like '100': they would meet without \".0\""),
        ("{}", "000{}", ["zeros"], "meet without leading zeros"),
        ("a{}", "A{}", ["case"], "meet in small letters"),
        ("a {}", "a{}", ["blanks"], "meet without blanks"),
        ("a{}.", "00A{}.", [], "an id there is 'a100.', one of the items file '00A100.'"),
    ],
)
def test_ids_that_nearly_meet(tmp_path: Path, events: str, items: str, rule: list[str], said: str) -> None:
    log = [f"u{user},{events.format(100 + item)},{1_600_000_000 + item}" for user in range(8) for item in range(6)]
    catalogue = [f"{items.format(100 + item)},Lamp {item}" for item in range(6)]
    with pytest.raises(DataError) as error:
        prepared(tmp_path, log, catalogue)
    assert said in str(error.value)
    if rule:
        assert f'set data.ids=["{rule[0]}"]' in str(error.value)
        assert prepared(tmp_path, log, catalogue, ids=tuple(rule))["items"] == 6


def test_words_for_no_value_are_no_ids_unless_the_recipe_keeps_them(tmp_path: Path) -> None:
    events = [*USERS, *(f"{word},i{item},{1_600_000_000 + item}" for word in ("\\N", "NA", "n/a") for item in range(4))]
    with pytest.warns(UserWarning, match="12 user: missing id"):
        assert prepared(tmp_path, events, ITEMS)["users"] == 8
    with pytest.warns(UserWarning, match="8 user: missing id"):
        assert prepared(tmp_path, events, ITEMS, missing=("", "\\N", "n/a"))["users"] == 9


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("item_id,product_name", "{},Lamp", r"neither a column of titles nor of categories \(it has: product_name\)"),
        ("item_id,title", "{},None", "gives no item a title or a category"),
        ("item_id,title", "{},Lamp", "gives all 6 items the same text"),
    ],
)
def test_items_without_a_text_of_their_own_are_warned_of(tmp_path: Path, header: str, row: str, said: str) -> None:
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *USERS]))
    (tmp_path / "items.csv").write_text("\n".join([header, *(row.format(f"i{item}") for item in range(6))]))
    config = DataConfig(interactions=str(tmp_path / "events.csv"), items=str(tmp_path / "items.csv"))
    with pytest.warns(UserWarning, match=said):
        prepare(config, out=tmp_path / "out", log=lambda **_: None)


def test_a_run_says_it_after_the_step_and_under_the_table(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *USERS, "u0,i1,"]))
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\ndata = { interactions = "events.csv" }\n')
    done = cli("run", "r.toml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = "1 of 49 interactions left out (1 missing timestamp): see"
    assert f"warning: {line} quarantine.jsonl" in " ".join(done.stderr.split())
    assert f"data: {line} runs/r/dataset/quarantine.jsonl" in " ".join(done.stdout.split())
    assert "ties: hash" in done.stdout
    report = (tmp_path / "runs/r/report.html").read_text()
    assert "Events of one time are in the order of\n<strong>a hash</strong>" in report
    assert "1 of 49 interactions left out (1 missing timestamp)." in report


@pytest.mark.parametrize(("again", "said"), [(8, "error: 8 of 8 test items"), (3, "warning: 3 of 8 test items")])
def test_targets_that_are_dropped_as_seen_are_counted_before_anything_is_trained(
    tmp_path: Path, again: int, said: str
) -> None:
    rows = [*USERS, *(f"u{user},i{user % 5},1600009000" for user in range(again))]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    (tmp_path / "r.toml").write_text('name = "r"\ndata = { interactions = "events.csv", repeats = "keep" }\n')
    done = cli("run", "r.toml", folder=tmp_path)
    assert said in done.stderr
    assert "set evaluation.seen" in done.stderr
    assert done.returncode == (2 if again == 8 else 0)
    assert cli("run", "r.toml", "--set", "evaluation.seen=keep", folder=tmp_path).returncode == 0
