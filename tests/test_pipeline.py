"""A whole recipe, from raw files to recommendations, on a tiny real model."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

import pauserec
from pauserec.config import Recipe, SasrecConfig
from pauserec.errors import PauserecError, RecipeError, RunError
from pauserec.pipeline import reevaluate, run
from pauserec.plan import _stand_in_ids, make_plan
from pauserec.report import ReportContent
from pauserec.results import open_finished
from pauserec.run_folder import Run
from pauserec.summary import main_model, report_content

SASREC = SasrecConfig(name="sas", kind="sasrec", epochs=1, width=8)


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pauserec", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_result_json_has_every_row_and_stage(tiny_run: Path) -> None:
    result = orjson.loads((tiny_run / "result.json").read_bytes())
    assert list(result["models"]) == ["popularity", "co-occurrence", "sft", "pauserec", "pauserec-k0"]
    for model in result["models"].values():
        for split in ("validation", "test"):
            assert {"hit@5", "hit@10", "ndcg@5", "ndcg@10", "users", "ci95"} <= model[split].keys()
        assert model["decoding"]["invalid"] == model["decoding"]["duplicates"] == 0
        assert model["decoding"]["ms_per_user"] > 0
    beams = {name: model["decoding"]["beams"] for name, model in result["models"].items()}
    assert beams == {"popularity": None, "co-occurrence": None, "sft": 20, "pauserec": 20, "pauserec-k0": 20}
    assert {"seconds", "tokens", "trainable_parameters"} <= result["stages"]["implicit_sft"].keys()
    assert result["stages"]["pause_pretrain"]["trainable_parameters"] == 48, "one row"
    for stage in result["stages"].values():
        assert stage["device_hours"] > 0
        assert stage["peak_memory_bytes"] > 0
        assert 0 < stage["mfu"] < 2, "tiny matrices may outrun the yardstick, not by much"
        parameters = result["model"]["parameters"]
        assert 0 < stage["model_flops"] < 6 * parameters * (stage["tokens"] + stage["targets"])
    assert sum(stage["share"] for stage in result["stages"].values()) == pytest.approx(1, abs=1e-3)
    assert result["seen"] == "drop"
    assert {"fingerprint", "users", "items", "interactions"} <= result["data"].keys()
    assert (tiny_run / "report.html").exists()


def test_a_second_run_does_nothing(tiny_run: Path, tiny_recipe: Recipe) -> None:
    before, told = files_of(tiny_run), {}
    run(tiny_recipe, tiny_run, on_step=told.__setitem__)
    after = files_of(tiny_run)
    assert all(told.values())
    order = list(told)
    assert order.index("test-sft") < order.index("pause_pretrain"), "what a stage gives is known before the next begins"
    assert before.pop("recipe.toml")
    assert after.pop("recipe.toml")
    assert after == before


def test_data_that_changed_are_read_again_and_reach_the_result(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Counted baselines stand for whatever was made from the data: all of it is made again."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_recipe.data.source, folder)
    data = tiny_recipe.data.model_copy(update={"source": str(folder)})
    recipe = Recipe(name="counts", data=data, baselines=(SASREC,))
    before = run(recipe, tmp_path / "run")
    events = next(folder.glob("interactions.*"))
    text = events.read_text().splitlines(keepends=True)
    user = text[-1].split(",")[0]
    events.write_text("".join(line for line in text if line.split(",")[0] != user))
    told: dict[str, bool] = {}
    after = run(recipe, tmp_path / "run", on_step=told.__setitem__)
    assert not any(told.values())
    assert after["data"]["users"] == before["data"]["users"] - 1
    assert {model["test"]["users"] for model in after["models"].values()} == {after["data"]["users"]}


def test_results_tell_of_a_step_that_was_done_again(tiny_run: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    result, report = (copy / "result.json").read_bytes(), (copy / "report.html").stat().st_mtime_ns
    run(tiny_recipe, copy, redo=("test-popularity",))
    assert (copy / "result.json").read_bytes() != result, "it names the new step"
    assert (copy / "report.html").stat().st_mtime_ns > report
    again = (copy / "result.json").read_bytes()
    run(tiny_recipe, copy)
    assert (copy / "result.json").read_bytes() == again


def test_evaluate_in_a_new_process_gives_the_same_ranks(tiny_run: Path) -> None:
    for split in ("validation", "test"):
        done = cli("evaluate", tiny_run, "--split", split)
        assert done.returncode == 0, done.stderr
        assert "Every rank equals" in done.stdout


def test_reevaluation_repeats_the_metrics(tiny_run: Path) -> None:
    written = orjson.loads((tiny_run / "result.json").read_bytes())["models"]
    for name, result in reevaluate(tiny_run, "test").items():
        assert result.metrics["ndcg@10"] == written[name]["test"]["ndcg@10"]


def test_recommend_says_what_happened_to_each_history(tiny_run: Path) -> None:
    recommender = pauserec.load(tiny_run)
    with pytest.warns(UserWarning, match=r"2 history entries \(1 ids\) are not in the catalogue"):
        known, partly, nothing, empty = recommender.recommend([["i1", "i2"], ["ghost", "i1"], ["ghost"], []], k=5)
    assert len(known.items) == 5
    assert known.unknown == ()
    assert not {"i1", "i2"} & {scored.item_id for scored in known.items}, "seen items are dropped"
    assert partly.unknown == ("ghost",)
    assert partly.fallback is None
    assert nothing.fallback == empty.fallback == "popularity"
    assert len(empty.items) == 5


def test_asking_for_more_than_the_catalogue_holds_says_so(tiny_run: Path) -> None:
    (found,) = pauserec.load(tiny_run).recommend([["i1"]], k=100)
    assert len(found.items) == 39
    assert found.fewer_than_asked
    assert len({scored.item_id for scored in found.items}) == 39


def test_each_history_has_its_own_limits(tiny_run: Path) -> None:
    recommender = pauserec.load(tiny_run)
    histories = [["i1", "i2"], ["i1", "i2"], ["ghost"]]
    with pytest.warns(UserWarning, match="ghost"):
        free = recommender.recommend(histories, k=5)
    best = free[0].items[0].item_id
    with (
        pytest.warns(UserWarning, match="ghost"),
        pytest.warns(
            UserWarning, match="1 ids of allow are not in the catalogue and were dropped, for example 'nowhere'"
        ),
        pytest.warns(UserWarning, match="1 ids of deny are not in the catalogue and were dropped, for example 'gone'"),
    ):
        denied, allowed, fallback = recommender.recommend(
            histories,
            k=5,
            deny=[[best], ["gone"], []],
            allow=[None, ["i7", "i9", "nowhere"], None],
            category=[None, None, "red"],
        )
    assert best not in {scored.item_id for scored in denied.items}
    assert {scored.item_id for scored in allowed.items} == {"i7", "i9"}
    assert allowed.fewer_than_asked
    assert fallback.fallback == "popularity"
    assert all("red" in recommender.item(scored.item_id).categories for scored in fallback.items)


def test_kept_prompts_change_no_recommendation(tiny_run: Path) -> None:
    cold, warm = pauserec.load(tiny_run), pauserec.load(tiny_run, cache_bytes=10**8)
    for shown in (1, 2, 3, 5):
        history = [f"i{n}" for n in range(shown)]
        expected, found = (r.recommend([history], k=10)[0].items for r in (cold, warm))
        assert [scored.item_id for scored in found] == [scored.item_id for scored in expected]


def test_many_histories_are_answered_in_blocks(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [[f"i{n}"] if n % 3 else ["unknown"] for n in range(11)]
    deny = [[f"i{n + 1}"] for n in range(11)]
    recommender = pauserec.load(tiny_run)
    with pytest.warns(UserWarning, match="4 history entries"):
        whole = recommender.recommend(histories, k=5, deny=deny)
    monkeypatch.setattr("pauserec.inference.BLOCK", 2)
    with pytest.warns(UserWarning, match="4 history entries"):
        assert [x.fallback for x in whole] == [x.fallback for x in recommender.recommend(histories, k=5, deny=deny)]
    for one, other in zip(whole, recommender.recommend(histories, k=5, deny=deny), strict=True):
        assert [scored.item_id for scored in one.items] == [scored.item_id for scored in other.items]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"category": ["rad"]}, r"no item has the category 'rad': did you mean red"),
        ({"deny": [["i1"], ["i2"]]}, r"deny has 2 entries for 1 histories"),
        ({"allow": ["i1"]}, r"allow holds a text where a list of ids belongs"),
    ],
)
def test_wrong_limits_are_refused(tiny_run: Path, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        pauserec.load(tiny_run).recommend([["i1"]], k=3, **limits)


def test_a_flat_list_of_ids_is_refused(tiny_run: Path) -> None:
    with pytest.raises(RecipeError, match="histories holds a text"):
        pauserec.load(tiny_run).recommend(["i1", "i2"])  # type: ignore[list-item]
    with pytest.raises(RecipeError, match="histories holds 50, but ids are text: write '50'"):
        pauserec.load(tiny_run).recommend([[50, 181]])  # type: ignore[list-item]


def test_k_below_one_is_refused(tiny_run: Path) -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        pauserec.load(tiny_run).recommend([["i1"]], k=0)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_recommend_for_users_of_a_file(tiny_run: Path, tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["i1", "i2", "i7"]})
    users, output = tmp_path / f"users.{suffix}", tmp_path / "found.parquet"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](users)
    done = cli("recommend", tiny_run, "--users", users, "-k", 3, "--format", "parquet", "--output", output)
    assert done.returncode == 0, done.stderr
    found = pl.read_parquet(output)
    assert found["user_id"].to_list() == ["a", "b"]
    assert found["items"].list.len().to_list() == [3, 3]


def test_a_changed_model_file_is_refused_in_one_line(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    weights = copy / "implicit_sft" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = cli("recommend", copy, "--history", "i1")
    assert done.returncode == 2
    assert "model.safetensors was changed" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_a_run_that_was_half_redone_is_not_read(tiny_run: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    changed = tiny_recipe.model_copy(update={"name": "changed"})
    (copy / "recipe.toml").write_text(changed.dump())
    with pytest.raises(RunError, match="of another recipe"):
        pauserec.load(copy)
    shutil.copytree(tiny_run, copy, dirs_exist_ok=True)
    manifest = copy / "implicit_sft" / "manifest.json"
    manifest.write_bytes(orjson.dumps(orjson.loads(manifest.read_bytes()) | {"fingerprint": "0" * 64}))
    with pytest.raises(RunError, match=r"'implicit_sft' of .* was redone since"):
        pauserec.load(copy)
    (copy / "result.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        pauserec.load(copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstart", "--set", "model.layer=3"], "unknown setting 'model.layer'"),
        (["run", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["run", "quickstart", "--set", "stages.nope.epochs=1"], "stages.nope"),
        (["recommend", "/nonexistent", "--history", "1"], "is no run folder"),
        (["recommend", "/nonexistent", "--history", "1", "--output", "x"], "--output needs --format json or parquet"),
        (
            ["recommend", "/nonexistent", "--history", "1", "--format", "json", "--output", "/no/such/folder/x"],
            "there is no folder /no/such/folder",
        ),
        (["run", "quickstart", "--out", "/nonexistent/x", "--redo", "cpd"], "--redo cpd: no step of this recipe"),
        (["data", "check", "--interactions", "/nonexistent.csv"], "/nonexistent.csv"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_run_is_left_alone(tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(RunError, match="not a run folder"):
        run(tiny_recipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_dry_run_counts_and_writes_nothing(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe, out = tmp_path / "tiny.toml", tmp_path / "out"
    recipe.write_text(tiny_recipe.dump())
    done = cli("run", recipe, "--out", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "60 users / 40 items / 720 interactions" in done.stdout
    assert not out.exists()


def test_a_model_that_cannot_be_read_is_one_line_before_anything_is_written(
    tiny_recipe: Recipe, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name, layers, said in (
        (tmp_path / "empty", None, "cannot be loaded"),
        (tiny_model, 9, "model.layers is 9, but"),
    ):
        model = tiny_recipe.model.model_copy(update={"name": str(name), "layers": layers})
        recipe = tmp_path / "tiny.toml"
        recipe.write_text(tiny_recipe.model_copy(update={"model": model}).dump())
        for options in ((), ("--dry-run",)):
            done = cli("run", recipe, "--out", tmp_path / "out", *options)
            assert done.returncode == 2
            assert said in done.stderr
            assert done.stderr.count("\n") == 1, done.stderr
            assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_recipe.dump())
    command = [sys.executable, "-m", "pauserec", "run", str(recipe), "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not (tmp_path / "run" / "dataset").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "stopped; run the same command again to go on"


def test_help_and_import_load_no_torch() -> None:
    code = "import sys, pauserec, pauserec.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, pauserec; pauserec.load; assert 'matplotlib' not in sys.modules, 'a service draws nothing'"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert cli("--help").returncode == 0


CPT = {"name": "cpt", "kind": "cpt"}


def plain(data: Path, **data_settings: Any) -> Recipe:
    return Recipe.parse({"name": "plain", "data": {"source": str(data), **data_settings}})


def test_a_run_that_cannot_start_leaves_a_finished_one_as_it_was(small_data: Path, tmp_path: Path) -> None:
    run(plain(small_data), tmp_path / "run")
    before = files_of(tmp_path / "run")
    content = plain(small_data).model_dump(mode="json")
    tracked = Recipe.parse(
        {"name": "t", "data": {"source": str(small_data)}, "baselines": [SASREC.model_dump() | {"tracking": ["nope"]}]}
    )
    for recipe, message in (
        (plain(small_data, interactions=str(small_data / "typo.csv")), "is no file"),
        (plain(small_data, columns={"order": "postion"}), "no column 'postion'.*data.columns.order"),
        (tracked, "sas: tracking knows no 'nope'"),
        (plain(small_data, source="ml-100"), "data.source: unknown data set 'ml-100'"),
        (Recipe.parse(content | {"embedder": {"name": "minilm"}}), "embedder.name: 'minilm' is neither"),
        (Recipe.parse(content | {"model": {"name": "typo"}, "stages": [CPT]}), "model.name: 'typo' is neither"),
    ):
        with pytest.raises(PauserecError, match=message):
            run(recipe, tmp_path / "run")
        assert files_of(tmp_path / "run") == before
        with pytest.raises(PauserecError, match=message):
            run(recipe, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_signs_that_file_systems_know_are_letters_in_a_path(small_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "fewer"
    other.mkdir()
    rows = (small_data / "interactions.csv").read_text().splitlines()[: 12 * 25 + 1]
    (other / "interactions.csv").write_text("\n".join(rows))
    run(plain(other), tmp_path / "x1")
    assert run(plain(small_data), tmp_path / "x[1]")["models"]["popularity"]["test"]["users"] == 60


def test_a_report_is_never_older_than_its_results(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    kept = Recipe.parse(plain(small_data).model_dump(mode="json") | {"evaluation": {"seen": "keep"}})
    run(plain(small_data), tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("pauserec.pipeline.write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            run(kept, tmp_path / "run")
    run(kept, tmp_path / "run")
    run(kept, tmp_path / "new")
    reports = [(tmp_path / name / "report.html").read_text() for name in ("run", "new")]
    assert [text.count("dropped") for text in reports] == [reports[1].count("dropped")] * 2
    assert [text.count("kept") for text in reports] == [reports[1].count("kept")] * 2


def reported(out: Path) -> ReportContent:
    folder, content = open_finished(out), orjson.loads((out / "result.json").read_bytes())
    return report_content(folder, content, {name: folder.finished(f"test-{name}") for name in content["models"]})


def test_the_report_shows_the_last_training_alone(small_data: Path, tmp_path: Path) -> None:
    content = plain(small_data).model_dump(mode="json")
    for epochs, name in ((3, "first"), (3, "sas"), (1, "sas")):
        baseline = SASREC.model_dump(mode="json") | {"epochs": epochs, "name": name}
        run(Recipe.parse(content | {"baselines": [baseline]}), tmp_path / "run")
    log = [orjson.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_bytes().splitlines()]
    steps = [line["global_step"] for line in log if line["step"] == "sas" and "loss" in line]
    last = steps[len(steps) - steps[::-1].index(1) - 1 :]
    shown = reported(tmp_path / "run").log
    assert [line["global_step"] for line in shown if line["step"] == "sas" and "loss" in line] == last != steps
    assert not [line for line in shown if line["step"] == "first"]


def test_a_dry_run_names_the_baselines_it_says_nothing_of(small_data: Path, tmp_path: Path) -> None:
    content = plain(small_data).model_dump(mode="json") | {"baselines": [SASREC.model_dump(mode="json")]}
    totals = make_plan(Recipe.parse(content), tmp_path / "run", ()).totals()
    assert totals.endswith("not estimated: training sas")
    assert "0 tokens" not in totals


def test_the_plan_knows_digits_as_the_run_does(tiny_settings: Any, tmp_path: Path) -> None:
    settings = tiny_settings() | {"quantizer": {"codebook_sizes": [2, 4], "collisions": "digit"}}
    ids = _stand_in_ids(Recipe.parse(settings), 41)
    assert ids.sizes == (2, 4, 8)
    assert len(set(map(tuple, ids.codes.tolist()))) == 41


def test_the_plan_walks_the_steps_of_the_run(tiny_recipe: Recipe, tiny_run: Path, tmp_path: Path) -> None:
    told: dict[str, bool] = {}
    shutil.copytree(tiny_run, tmp_path / "run")
    run(tiny_recipe, tmp_path / "run", on_step=told.__setitem__)
    assert list(make_plan(tiny_recipe, tiny_run, ()).steps) == list(told.items())
    assert set(told) == set(tiny_recipe.steps)
    redone = dict(make_plan(tiny_recipe, tiny_run, ("sft",)).steps)
    assert [name for name, done in redone.items() if not done] == [
        "sft", "test-sft", "implicit_sft", "test-pauserec", "test-pauserec-k0"
    ]  # fmt: skip


def test_the_plan_counts_the_tokens_that_the_run_trains_on(tiny_recipe: Recipe, tiny_run: Path, tmp_path: Path) -> None:
    stages = orjson.loads((tiny_run / "result.json").read_bytes())["stages"]
    planned = {stage.name: stage.tokens for stage in make_plan(tiny_recipe, tmp_path / "new", ()).stages}
    assert planned == {name: stage["tokens"] for name, stage in stages.items()}


def test_a_place_that_cannot_be_written_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli("export", tiny_run, tmp_path / "file" / "model")
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_the_run_is_about_its_last_model(tiny_recipe: Recipe, tmp_path: Path) -> None:
    stages = [stage.model_dump(mode="json") for stage in tiny_recipe.stages[:3]]
    rows = {"models": [{"name": "row", "stage": "sft"}]}
    recipe = Recipe.parse({"name": "x", "stages": stages, "evaluation": rows})
    assert main_model(Run(tmp_path, recipe)) == "row"


def test_damaged_results_are_collected_again(small_data: Path, tmp_path: Path) -> None:
    content = run(plain(small_data), tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text('{"recipe"')
    assert run(plain(small_data), tmp_path / "run")["models"] == content["models"]
    assert orjson.loads((tmp_path / "run" / "result.json").read_bytes())["models"] == content["models"]


def test_every_row_of_the_table_recommends(tiny_run: Path) -> None:
    for model in ("popularity", "co-occurrence"):
        (found,) = pauserec.load(tiny_run, model).recommend([["i1", "i2"]], k=5)
        assert len(found.items) == 5
    assert pauserec.load(tiny_run, "co-occurrence").recommend([["i1", "i2"]], k=1)[0].items[0].item_id == "i3"
    with pytest.raises(RunError, match="choose one of popularity, co-occurrence, sft"):
        pauserec.load(tiny_run, "nope")
