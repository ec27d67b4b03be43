"""`pauserec compare`: one table of several runs, under one protocol only."""

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from rich.console import Console

from commands import cli
from pauserec.compare.published import published
from pauserec.compare.runs import compare
from pauserec.compare.tables import rendered, tables
from pauserec.config import Recipe
from pauserec.data.dataset import load_dataset
from pauserec.errors import RunError
from pauserec.pipeline import run
from pauserec.results.again import reevaluate
from pauserec.results.testing import counted_test


def recipe(data: Path, seen: str = "drop", refit: bool = False, **settings: Any) -> Recipe:
    sasrec = {"name": "sasrec", "kind": "sasrec", "epochs": 3, "width": 16, "batch_tokens": 256} | settings
    evaluation = {"seen": seen, "final_fit": "train+validation" if refit else "train"}
    content = {"name": "r", "data": {"source": str(data)}, "baselines": [sasrec], "evaluation": evaluation}
    return Recipe.parse(content)


@pytest.fixture(scope="module")
def runs(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = {
        "one": recipe(small_data),
        "two": recipe(small_data, seed=1),
        "wide": recipe(small_data, width=32, epochs=40),
        "keep": recipe(small_data, seen="keep"),
        "refit": recipe(small_data, refit=True, final_fit="train+validation"),
    }
    for name, settings in made.items():
        run(settings, folder / name)
    return {name: folder / name for name in made}


def test_seeds_are_one_row_and_other_settings_another(runs: dict[str, Path]) -> None:
    found = compare([runs["one"], runs["two"], runs["wide"]], reference="co-occurrence")
    rows = {row.model: row for row in found.rows}
    assert list(rows) == ["popularity", "co-occurrence", "one/sasrec", "wide/sasrec"]
    assert len(rows["one/sasrec"].runs) == 2
    results = [orjson.loads((runs[name] / "result.json").read_bytes())["models"]["sasrec"] for name in ("one", "two")]
    expected = [result["test"]["ndcg@10"] for result in results]
    assert rows["one/sasrec"].metrics["ndcg@10"] == pytest.approx(np.mean(expected))
    assert rows["one/sasrec"].deviation is not None
    assert rows["one/sasrec"].deviation["ndcg@10"] == pytest.approx(np.std(expected, ddof=1))
    assert rows["wide/sasrec"].deviation is None
    assert len(rows["popularity"].runs) == 1, "counting knows no seed"
    assert rows["co-occurrence"].p_value is None
    assert rows["popularity"].p_value is not None
    assert rows["popularity"].p_value < 0.01
    assert rows["wide/sasrec"].metrics["hit@5"] > 0.9
    assert rows["wide/sasrec"].train_seconds > 0
    assert sum(rows["wide/sasrec"].slices[part]["users"] for part in ("head items", "tail items")) == 60


def test_what_differs_in_more_than_seeds_is_never_one_row(
    small_data: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    other = Recipe.parse(recipe(small_data).model_dump(mode="json") | {"embedder": {"name": "another"}})
    run(other, tmp_path / "one")
    found = compare([runs["one"], tmp_path / "one"])
    assert [row.model for row in found.rows[2:]] == [f"{runs['one']}/sasrec", f"{tmp_path / 'one'}/sasrec"]
    with pytest.raises(RunError, match="seeds too: give one of them"):
        compare([runs["one"], runs["one"]])


def test_counts_with_other_settings_are_rows_of_their_own(
    small_data: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    even = recipe(small_data).model_dump(mode="json")
    even["evaluation"]["cooccurrence"] |= {"distance_decay": 1.0, "backward": 1.0, "decay": 1.0}
    run(Recipe.parse(even), tmp_path / "even")
    rows = {row.model: row.metrics for row in compare([runs["one"], tmp_path / "even"]).rows}
    one, other = (rows[f"{name}/co-occurrence"] for name in ("one", "even"))
    assert one != other
    assert "popularity" in rows, "it has none of these settings"


def test_a_refit_is_a_row_of_its_own(runs: dict[str, Path]) -> None:
    rows = {row.model: row for row in compare([runs["one"], runs["refit"]]).rows}
    assert list(rows) == ["popularity", "co-occurrence", "sasrec"] + [
        f"{name}, refitted" for name in ("popularity", "co-occurrence", "sasrec")
    ]
    assert rows["sasrec"].final_fit == "train"
    assert {row.final_fit for name, row in rows.items() if "refitted" in name} == {"train+validation"}
    dataset = load_dataset(runs["one"] / "dataset")
    events = [counted_test(recipe_of(runs[name]), "popularity").fit(dataset).counts.sum() for name in ("one", "refit")]
    assert events[1] - events[0] == len(dataset.users)


def test_saved_comparisons_are_as_good_as_their_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    saved = {name: tmp_path / f"{name}.json" for name in ("one", "keep", "refit", "wide")}
    for name, path in saved.items():
        path.write_text(rendered(compare([runs[name]]), "json"))
        assert str(tmp_path) not in path.read_text()
    together = compare([runs["one"], runs["refit"]])
    assert compare([saved["one"], saved["refit"]]) == together
    assert sorted(compare([runs["refit"], saved["one"]]).rows, key=lambda row: row.model) == sorted(
        together.rows, key=lambda row: row.model
    )
    with pytest.raises(RunError, match="another rule for seen items"):
        compare([saved["one"], saved["keep"]])
    with pytest.raises(RunError, match="two rows are named 'sasrec' and differ"):
        compare([saved["one"], saved["wide"]])
    with pytest.raises(RunError, match="give run folders"):
        compare([saved["one"]], reference="sasrec")
    with pytest.raises(RunError, match=r"one\.json was saved with seen items: drop"):
        compare([saved["one"]], seen="keep")
    assert compare([saved["one"]], seen="drop") == compare([runs["one"]])
    tested = tmp_path / "tested.json"
    tested.write_text(rendered(compare([runs["refit"]], reference="popularity, refitted"), "json"))
    with pytest.raises(
        RunError, match=r"tested\.json was tested against popularity, refitted and .*one\.json against noth"
    ):
        compare([saved["one"], tested])


@pytest.mark.parametrize("content", ["[]", "{", '{"seen":"drop","data":{},"reference":null,"rows":[{"model":"x"}]}'])
def test_what_is_no_comparison_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "saved.json").write_text(content)
    with pytest.raises(RunError, match=r"saved\.json is no comparison"):
        compare([tmp_path / "saved.json"])


def test_refits_are_tested_against_the_reference_refitted(runs: dict[str, Path]) -> None:
    found = {row.model: row for row in compare([runs["one"], runs["refit"]], reference="co-occurrence").rows}
    refitted = found["co-occurrence, refitted"]
    assert refitted.difference is None
    gained = found["sasrec, refitted"].metrics["ndcg@10"] - refitted.metrics["ndcg@10"]
    assert found["sasrec, refitted"].difference == pytest.approx(gained)
    gained = found["sasrec"].metrics["ndcg@10"] - found["co-occurrence"].metrics["ndcg@10"]
    assert found["sasrec"].difference == pytest.approx(gained)


def test_a_refit_is_not_tested_on_the_events_it_was_fitted_on(runs: dict[str, Path]) -> None:
    result = orjson.loads((runs["refit"] / "result.json").read_bytes())
    assert all("test" in model and "validation" not in model for model in result["models"].values())
    assert set(pl.read_parquet(runs["refit"] / "ranks.parquet")["split"]) == {"test"}
    assert "validation" in orjson.loads((runs["one"] / "result.json").read_bytes())["models"]["sasrec"]
    with pytest.raises(RunError, match=r"refit: 'popularity' was fitted on the validation events"):
        reevaluate(runs["refit"], "validation")
    assert reevaluate(runs["refit"], "test")["sasrec"].metrics == result["models"]["sasrec"]["test"]


def test_costs_are_those_of_all_stages_a_model_goes_back_to(tiny_run: Path) -> None:
    stages = orjson.loads((tiny_run / "result.json").read_bytes())["stages"]
    found = compare([tiny_run], reference="sft")
    rows = {row.model: row for row in found.rows}
    assert rows["pauserec"].tokens == sum(stage["tokens"] for stage in stages.values())
    assert rows["sft"].tokens == stages["cpt"]["tokens"] + stages["sft"]["tokens"]
    assert rows["pauserec"].device_hours == pytest.approx(sum(stage["device_hours"] for stage in stages.values()))
    assert rows["pauserec"].trained_parameters == max(stage["trainable_parameters"] for stage in stages.values())
    assert (rows["popularity"].device_hours, rows["popularity"].tokens) == (0, 0)
    cost = tables(found)[1]
    assert cost.headings[-2:] == ("hours / sft", "s/user / sft")
    cells = {row[0]: dict(zip(cost.headings, row, strict=True)) for row in cost.rows}
    assert cells["sft"]["hours / sft"] == cells["sft"]["s/user / sft"] == "1.00"
    assert cells["pauserec"]["trained parameters"] == f"{rows['pauserec'].trained_parameters:,}"


def test_published_numbers_stand_beside_ours_where_the_data_is_the_same(runs: dict[str, Path]) -> None:
    beauty = {"users": 22363, "items": 12101, "interactions": 198502}
    assert published(beauty, "run/tiger, refitted") == ".0405 / .0623 / .0267 / .0337 (keep)"
    assert published(beauty, "sasrec") == "– / .0921 / – / .0531 (drop)"
    assert published(beauty | {"ties": "column"}, "sasrec") == published(beauty, "sasrec")
    assert published(beauty | {"ties": "hash"}, "sasrec") == "", "a fifth of the targets are others"
    assert published(beauty, "mine") == published(beauty | {"users": 1}, "tiger") == ""
    found = compare([runs["one"]])
    assert "published" not in rendered(found, "md")
    beside = rendered(dataclasses.replace(found, data=beauty), "md")
    assert "| – / .0921 / – / .0531 (drop) |" in beside
    assert "sasrec: SASRec with sampled softmax in the eSASRec study (fitted strictly, seen items dropped)" in beside
    assert "other rows" not in beside


@pytest.mark.parametrize("form", ["md", "html", "json"])
def test_it_can_be_written_down(runs: dict[str, Path], form: str) -> None:
    text = rendered(compare([runs["one"]]), form)
    assert "co-occurrence" in text
    assert "seen items: drop" in text or orjson.loads(text)["seen"] == "drop"


def test_runs_of_another_protocol_are_refused(runs: dict[str, Path]) -> None:
    with pytest.raises(RunError, match="another rule for seen items"):
        compare([runs["one"], runs["keep"]])
    with pytest.raises(RunError, match="no row 'best'"):
        compare([runs["one"]], reference="best")


def test_a_run_without_ranks_says_how_to_make_them(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["one"], folder)
    (folder / "ranks.parquet").unlink()
    with pytest.raises(RunError, match=r"ranks\.parquet is missing: `pauserec run .* writes it") as caught:
        compare([folder])
    command = str(caught.value).split("`")[1].split()[1:]
    assert cli(*command).returncode == 0
    assert compare([folder]).rows[0].metrics == compare([runs["one"]]).rows[0].metrics


@pytest.mark.parametrize("lost", ["a model", "half of a model"])
def test_ranks_that_are_not_whole_say_how_to_make_them(runs: dict[str, Path], tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs["one"], folder)
    frame = pl.read_parquet(folder / "ranks.parquet").with_row_index()
    gone = (pl.col("model") == "sasrec") & ((pl.col("index") % 2 == 0) | (lost == "a model"))
    frame.filter(~gone).drop("index").write_parquet(folder / "ranks.parquet")
    with pytest.raises(RunError, match=r"every user's rank by 'sasrec': delete it, `pauserec run .* writes it again"):
        compare([folder])


@pytest.mark.parametrize("saved", [False, True])
def test_other_data_is_refused_with_both_fingerprints(
    runs: dict[str, Path], small_data: Path, tmp_path: Path, saved: bool
) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    events = (small_data / "interactions.csv").read_text().splitlines()
    (tmp_path / "data" / "interactions.csv").write_text("\n".join(row for row in events if not row.startswith("u7,")))
    run(Recipe.parse({"name": "r", "data": {"source": str(tmp_path / "data")}}), tmp_path / "other")
    one, other = (load_dataset(folder / "dataset").fingerprint[:12] for folder in (runs["one"], tmp_path / "other"))
    assert one != other
    second = tmp_path / "other"
    if saved:
        second = tmp_path / "other.json"
        second.write_text(rendered(compare([tmp_path / "other"]), "json"))
    with pytest.raises(RunError, match=f"other data than .*fingerprints ({one} and {other}|{other} and {one})"):
        compare([runs["one"], second])


def test_all_can_be_ranked_by_the_other_rule(runs: dict[str, Path]) -> None:
    dropped, kept = recipe_of(runs["one"]), recipe_of(runs["keep"])
    assert dropped.baselines == kept.baselines
    found = compare([runs["one"], runs["wide"]], seen="keep")
    assert found.seen == "keep"
    again = {row.model: row.metrics for row in found.rows}
    as_run = {row.model: row.metrics for row in compare([runs["keep"]]).rows}
    assert again["co-occurrence"] == as_run["co-occurrence"]
    before = {row.model: row.metrics for row in compare([runs["one"], runs["wide"]]).rows}
    assert before.keys() == again.keys()
    assert before["wide/sasrec"] != again["wide/sasrec"]
    assert again["popularity"] == as_run["popularity"]


def recipe_of(run: Path) -> Recipe:
    return Recipe.load(run / "recipe.toml")


@pytest.mark.parametrize("width", [80, 120])
def test_in_a_terminal_no_cell_is_broken(runs: dict[str, Path], width: int) -> None:
    for table in tables(compare([runs["one"], runs["wide"]], reference="co-occurrence")):
        parts = table.parts(width)
        assert [heading for part in parts for heading in part.headings[1:]] == list(table.headings[1:])
        console = Console(width=width, file=io.StringIO())
        for part in parts:
            console.print(part.rich())
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, printed.splitlines())) <= width
        assert all(cell in printed for row in table.rows for cell in row)
        assert all(word in printed for heading in table.headings for word in heading.split())


def test_the_command_line(runs: dict[str, Path]) -> None:
    found = cli("compare", runs["one"], runs["wide"], "--format", "md").stdout
    assert "| wide/sasrec | train | 1 |" in found


def test_one_training_in_two_runs_is_one_seed(small_data: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        content = recipe(small_data, epochs=1).model_dump(mode="json")
        content["baselines"].append({"name": "gru", "kind": "gru4rec", "epochs": 1, "width": 8, "seed": seed})
        run(Recipe.parse(content), tmp_path / f"r{seed}")
    rows = {row.model: row for row in compare([tmp_path / "r0", tmp_path / "r1"]).rows}
    assert len(rows["sasrec"].runs) == 1
    assert rows["sasrec"].deviation is None
    assert len(rows["gru"].runs) == 2
