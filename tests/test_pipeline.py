"""A whole recipe, from raw files to recommendations, on a tiny real model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

import pauserec
from commands import cli
from pauserec.config import DataConfig, Recipe, SasrecConfig
from pauserec.data.dataset import load_dataset
from pauserec.errors import PauserecError, RecipeError, RunError
from pauserec.pipeline import check_before, make_ids, run
from pauserec.report.content import main_model, report_content
from pauserec.report.page import ReportContent
from pauserec.results.again import reevaluate
from pauserec.results.finished import open_finished
from pauserec.runs.files import hashes
from pauserec.runs.folder import Run
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item import check_normalisation

Settings = Callable[..., dict[str, Any]]
SASREC = SasrecConfig(name="sas", kind="sasrec", epochs=1, width=8)


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


def test_a_backbone_of_another_family_goes_all_the_way(
    tiny_settings: Callable[..., dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    """GPT-NeoX calls its tables otherwise, does not tie them, and fuses queries, keys and values."""

    def recipe(positions: int) -> Recipe:
        tokenizer, folder = AutoTokenizer.from_pretrained(tiny_model), tmp_path / f"neox-{positions}"
        shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=positions, **shape)
        GPTNeoXForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        settings = tiny_settings(epochs=0.2)
        model = settings["model"] | {"name": str(folder)}
        return Recipe.parse(settings | {"name": "neox", "model": model})

    run(recipe(512), tmp_path / "run")
    assert len(pauserec.load(tmp_path / "run").recommend([["i1", "i2"]], k=5)[0].items) == 5
    with pytest.raises(RecipeError, match=r"\d+ tokens, but the model is made for 32"):
        run(recipe(32), tmp_path / "short")


def test_a_finished_run_does_without_its_data(small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(small_data, folder)
    recipe = Recipe(name="counts", data=DataConfig(source=str(folder)), baselines=(SASREC,))
    run(recipe, tmp_path / "run")
    for gone in (*folder.iterdir(), folder):
        gone.unlink() if gone.is_file() else gone.rmdir()
        told: dict[str, bool] = {}
        run(recipe, tmp_path / "run", on_step=told.__setitem__)
        assert all(told.values())


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


def test_a_run_that_was_half_redone_is_not_read(tiny_run: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    changed = tiny_recipe.model_copy(update={"name": "changed"})
    (copy / "recipe.toml").write_text(changed.dump())
    with pytest.raises(RunError, match="of another recipe"):
        pauserec.load(copy, "pauserec")
    shutil.copytree(tiny_run, copy, dirs_exist_ok=True)
    manifest = copy / "implicit_sft" / "manifest.json"
    manifest.write_bytes(orjson.dumps(orjson.loads(manifest.read_bytes()) | {"fingerprint": "0" * 64}))
    with pytest.raises(RunError, match=r"'implicit_sft' of .* was redone since"):
        pauserec.load(copy, "pauserec")
    (copy / "result.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        pauserec.load(copy, "pauserec")


def test_a_folder_that_is_no_run_is_left_alone(tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(RunError, match="not a run folder"):
        run(tiny_recipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


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
        (
            Recipe.parse(content | {"embedder": {"name": "minilm"}, "stages": [CPT]}),
            "embedder.name: 'minilm' is neither",
        ),
        (Recipe.parse(content | {"model": {"name": "typo"}, "stages": [CPT]}), "model.name: 'typo' is neither"),
    ):
        with pytest.raises(PauserecError, match=message):
            run(recipe, tmp_path / "run")
        assert files_of(tmp_path / "run") == before
        with pytest.raises(PauserecError, match=message):
            run(recipe, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def shop(folder: Path, first: int) -> Path:
    """Data with a column `order`: positions, from `first` = 0, or numbers of purchases."""
    folder.mkdir()
    rows = ["user_id,item_id,timestamp,order"]
    for user in range(12):
        rows += [f"u{user},i{(user + n) % 8},{1_600_000_000 + 60 * n},{first * (90 - user) + n}" for n in range(6)]
    if first:  # numbers fall while time rises
        rows = [rows[0], *(f"{row.rpartition(',')[0]},{100 - int(row.rpartition(',')[2])}" for row in rows[1:])]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    return folder


def counting(data: Path, **columns: Any) -> Recipe:
    settings = {"source": str(data), "min_interactions": 1, "columns": columns}
    return Recipe.parse({"name": "c", "data": settings, "baselines": [SASREC.model_dump(mode="json")]})


def told_by(recipe: Recipe, out: Path) -> dict[str, bool]:
    told: dict[str, bool] = {}
    run(recipe, out, on_step=told.__setitem__)
    return told


def as_earlier(out: Path) -> None:
    """What an earlier version left: it noted no rule, and took whatever was called `order`."""
    report, manifest = out / "dataset" / "report.json", out / "dataset" / "manifest.json"
    content = orjson.loads(report.read_bytes())
    del content["order_rule"], content["users_order_and_time_disagree"]
    report.write_bytes(orjson.dumps(content))
    made = orjson.loads(manifest.read_bytes())
    made["files"] |= hashes(out / "dataset", without=("manifest.json",))
    manifest.write_bytes(orjson.dumps(made))
    for step in out.iterdir():  # what was made from it was made from just this
        if (step / "manifest.json").exists():
            rest = orjson.loads((step / "manifest.json").read_bytes())
            rest["inputs"].pop("dataset", None)
            del rest["made_by"], rest["settings"]
            (step / "manifest.json").write_bytes(orjson.dumps(rest))


def test_naming_the_order_column_reads_the_data_again(tmp_path: Path) -> None:
    data, out = shop(tmp_path / "data", 100), tmp_path / "run"
    run(counting(data), out)
    by_time = load_dataset(out / "dataset").fingerprint
    assert all(told_by(counting(data), out).values())
    assert not told_by(counting(data, order="order"), out)["dataset"]
    assert load_dataset(out / "dataset").fingerprint != by_time
    assert not told_by(counting(data), out)["dataset"]
    assert load_dataset(out / "dataset").fingerprint == by_time


def test_data_that_an_earlier_version_read_stay_where_the_rule_gives_the_same(tmp_path: Path) -> None:
    for name, first, same in (("positions", 0, True), ("numbers", 100, False)):
        data, out = shop(tmp_path / name, first), tmp_path / f"run-{name}"
        run(counting(data, order="order"), out)
        as_earlier(out)
        assert told_by(counting(data, order="order"), out)["dataset"], "its own recipe.toml names the column"
        data.rename(tmp_path / "away")
        assert told_by(counting(data), out)["dataset"], "a finished run does without its data"
        (tmp_path / "away").rename(data)
        assert told_by(counting(data), out)["dataset"] is same
        assert told_by(counting(data), out)["dataset"]


@pytest.mark.parametrize("rows", [["popularity", "co-occurrence"], ["popularity"]])
def test_counting_alone_embeds_nothing(small_data: Path, tmp_path: Path, rows: list[str]) -> None:
    """The embedder's name is not even looked at."""
    content = plain(small_data).model_dump(mode="json")
    counts = Recipe.parse(content | {"embedder": {"name": "nobody"}, "evaluation": {"baselines": rows}})
    told = told_by(counts, tmp_path / "run")
    assert list(told) == ["dataset", *(f"test-{name}" for name in rows)]
    assert set(counts.steps) == set(told)
    assert (tmp_path / "run" / "report.html").exists()


def test_ids_can_be_made_for_runs_to_come(tiny_recipe: Recipe, tmp_path: Path) -> None:
    bare = {"stages": [], "evaluation": {"baselines": ["popularity"]}}
    counts = Recipe.parse(tiny_recipe.model_dump(mode="json") | bare)
    run(counts, tmp_path / "run")
    ids = make_ids(tmp_path / "run")
    assert SemanticIds.load(ids.path).codes.shape == (40, 3)
    before = files_of(tmp_path / "run")
    make_ids(tmp_path / "run")
    assert all(told_by(counts, tmp_path / "run").values())
    before.pop("recipe.toml")
    assert before.items() <= files_of(tmp_path / "run").items()
    folder = Run(tmp_path / "run", tiny_recipe)
    vectors = folder.finished("vectors")
    assert folder.is_done("semantic_ids", tiny_recipe.quantizer, (vectors, folder.finished("dataset")))


def without(patch: pytest.MonkeyPatch) -> None:
    """As if neither peft nor any tracker were installed."""
    patch.setattr("pauserec.llm.model.find_spec", lambda name: None)
    patch.setattr("accelerate.tracking.get_available_trackers", lambda: [])


def with_sft(settings: dict[str, Any], **changes: Any) -> Recipe:
    stages = [stage | changes if stage["name"] == "sft" else stage for stage in settings["stages"]]
    return Recipe.parse(settings | {"stages": stages})


LACKS = [
    ({"lora": {"rank": 2}}, r"stages\.sft\.lora needs peft: pip install 'pauserec\[peft\]'"),
    ({"tracking": ["tensorboard"]}, r"sft: .*'tensorboard' is not installed: pip install 'pauserec\[tensorboard\]'"),
]


@pytest.mark.parametrize(("changes", "message"), LACKS)
def test_a_library_that_a_stage_lacks_is_named_before_the_run_starts(
    changes: dict[str, Any], message: str, tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    with pytest.raises(RecipeError, match=message):
        run(with_sft(tiny_settings(), **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("changes", "message"), LACKS)
def test_a_finished_stage_needs_no_library_that_only_training_takes(
    changes: dict[str, Any], message: str, tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(epochs=0.1)
    one_stage = {"stages": settings["stages"][1:2], "evaluation": {"models": [{"name": "sft", "stage": "sft"}]}}
    recipe = with_sft(settings | one_stage, starts_from=["base"], **changes)
    run(recipe, tmp_path / "run")
    without(monkeypatch)
    told: dict[str, bool] = {}
    (tmp_path / "run" / "result.json").unlink()
    run(recipe, tmp_path / "run", on_step=told.__setitem__)
    assert all(told.values())
    before = files_of(tmp_path / "run")
    for again in (("sft",), ()):
        changed = (
            recipe if again else with_sft(settings | one_stage, starts_from=["base"], **changes, learning_rate=2e-3)
        )
        with pytest.raises(RecipeError, match=message):
            run(changed, tmp_path / "run", redo=again)
        assert files_of(tmp_path / "run") == before
    shutil.rmtree(tmp_path / "run" / "semantic_ids")  # what the stage is made from comes out differently
    embedder = {"embedder": settings["embedder"] | {"text": "title"}}
    with pytest.raises(RecipeError, match=message):
        run(with_sft(settings | one_stage | embedder, starts_from=["base"], **changes), tmp_path / "run")


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


def test_a_run_takes_over_what_another_run_has_done(
    tiny_settings: Callable[..., dict[str, Any]], tiny_run: Path, tmp_path: Path
) -> None:
    told: dict[str, bool] = {}
    content = tiny_settings()
    content["stages"][-1]["pauses"] = 2
    result = run(Recipe.parse(content), tmp_path / "run", reuse=(tiny_run,), on_step=told.__setitem__)
    assert [name for name, done in told.items() if not done] == ["implicit_sft", "test-pauserec", "test-pauserec-k0"]
    theirs = orjson.loads((tiny_run / "result.json").read_bytes())
    assert result["models"]["sft"]["test"] == theirs["models"]["sft"]["test"]
    with pytest.raises(RunError, match=r"--reuse .*: give a folder that"):
        run(Recipe.parse(content), tmp_path / "new", reuse=(tmp_path,))


def test_a_run_of_two_versions_says_so(
    tiny_settings: Callable[..., dict[str, Any]], tiny_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("dataset", "cpt"):
        path = tmp_path / "run" / name / "manifest.json"
        path.write_bytes(
            orjson.dumps(orjson.loads(path.read_bytes()) | {"made_by": {"version": "0.0.9", "commit": None}})
        )
    (tmp_path / "run" / "result.json").unlink()
    with pytest.warns(UserWarning, match=r"holds steps of several versions of pauserec .*0\.0\.9: dataset, cpt"):
        run(Recipe.parse(tiny_settings()), tmp_path / "run")


def test_a_loss_and_a_normalisation_that_do_not_belong_together_are_refused(
    tiny_settings: Callable[..., dict[str, Any]], tiny_run: Path, tmp_path: Path
) -> None:
    def paired(softmax: str, normalise: str) -> Recipe:
        content = tiny_settings() | {"decoding": {"normalise": normalise}}
        content["stages"][1]["softmax"] = softmax
        content["stages"][3]["softmax"] = softmax
        return Recipe.parse(content)

    for softmax, normalise in (("codebook", "full"), ("full", "codebook")):
        message = rf"stages\.sft\.softmax is '{softmax}' and decoding\.normalise is '{normalise}'"
        with pytest.raises(RecipeError, match=message):
            run(paired(softmax, normalise), tmp_path / "new")
        assert not (tmp_path / "new").exists()
    for softmax, normalise in (("codebook", "legal"), ("full", "legal"), ("full", "full"), ("codebook", "codebook")):
        check_normalisation(paired(softmax, normalise))
    shutil.copytree(tiny_run, tmp_path / "old")
    (tmp_path / "old" / "recipe.toml").write_text(paired("codebook", "full").dump())
    with pytest.warns(UserWarning, match="scores mean something else"):
        check_before(paired("codebook", "full"), tmp_path / "old", ())


def test_a_refit_takes_over_the_best_number_of_epochs(small_data: Path, tmp_path: Path) -> None:
    strict = SASREC.model_copy(update={"epochs": 6.0, "patience": 1, "learning_rate": 0.02})
    refit = strict.model_copy(update={"name": "again", "final_fit": "train+validation", "epochs_from": "sas"})
    recipe = Recipe(name="refit", data=DataConfig(source=str(small_data)), baselines=(strict, refit))
    stages = run(recipe, tmp_path / "run")["stages"]
    best = stages["sas"]["best_epoch"]
    assert 0 < best < 6
    sequences = load_dataset(tmp_path / "run" / "dataset").training_sequences("train+validation")
    assert stages["again"]["tokens"] == best * sum(len(sequence) - 1 for sequence in sequences)
    assert all(run(recipe, tmp_path / "run")["stages"][name] for name in ("sas", "again"))
