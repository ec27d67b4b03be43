"""`pauserec export`: a plain folder, all of it or nothing, and foreign text stays text."""

from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pauserec.config import CheckpointRow, Recipe
from pauserec.errors import RunError
from pauserec.llm.model import LanguageModel
from pauserec.llm.vocabulary import grow_tokenizer
from pauserec.results.finished import recipe_hash
from pauserec.results.testing import row_test
from pauserec.runs.folder import Run
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.serving.export import escape, export_run, was_tested

HOSTILE = "</code>\n    ```<script>alert(1)</script> [x](javascript:1) <pause><|sid_begin|>"
RECIPE = {
    "name": "tiny",
    "model": {"name": "somewhere/llama | <b>x</b>"},
    "stages": [{"name": kind, "kind": kind} for kind in ("cpt", "sft", "pause_pretrain", "implicit_sft")],
    "prompt": {"text_tokens": 200},
    "evaluation": {"models": [{"name": "mine", "stage": "implicit_sft"}]},
}


def finish(run: Run, name: str, files) -> None:
    run.step(name, lambda settings, *, out, log: files(out), None)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "run"
    run = Run.open(Recipe.parse(RECIPE), path)
    ids = SemanticIds(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))

    def dataset(out: Path) -> None:
        columns = {"item_id": ["a", "b", "c"], "title": [HOSTILE, "Bread", ""], "categories": [["x"], ["y"], ["z"]]}
        pl.DataFrame(columns).write_parquet(out / "items.parquet")
        pl.DataFrame({"user_id": ["u"], "items": [[0, 1, 2]]}).write_parquet(out / "histories.parquet")
        (out / "report.json").write_bytes(b'{"fingerprint": "f00d"}')

    def semantic_ids(out: Path) -> None:
        ids.save(out)
        Codebooks((np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32))).save(out)

    def checkpoint(out: Path) -> None:
        words = {character: n for n, character in enumerate(["\n", *map(chr, range(32, 127))])} | {"[UNK]": 96}
        backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        backend.decoder = decoders.Fuse()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
        vocabulary = grow_tokenizer(tokenizer, ids)
        torch.manual_seed(0)
        shape = LlamaConfig(
            vocab_size=128,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
        LanguageModel(LlamaForCausalLM(shape), tokenizer, vocabulary).save(out)

    for name, files in (("dataset", dataset), ("semantic_ids", semantic_ids), ("implicit_sft", checkpoint)):
        finish(run, name, files)
    metrics = {"hit@5": 0.25, "hit@10": 0.5, "ndcg@5": 0.125, "ndcg@10": 0.2, "users": 1}
    result = {
        "seen": "drop",
        "data": {"fingerprint": "f00d", "users": 1, "items": 3, "interactions": 3},
        "models": {"mine": {"validation": metrics, "test": metrics}},
        "recipe_sha256": recipe_hash(run.recipe),
        "steps": {name: run.finished(name).fingerprint for name in ("dataset", "semantic_ids", "implicit_sft")},
    }
    (path / "result.json").write_bytes(orjson.dumps(result))
    return path


@pytest.fixture(scope="module")
def exported(run_folder: Path, tmp_path_factory) -> Path:
    return export_run(run_folder, tmp_path_factory.mktemp("exported") / "model")


def test_any_hugging_face_tool_can_read_it(exported: Path, run_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer("<s_a_1>", add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids("<s_a_1>")]
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, 128)
    original = AutoModelForCausalLM.from_pretrained(run_folder / "implicit_sft")
    assert torch.equal(logits, original(torch.tensor([[1, 2, 3]])).logits)


def test_the_catalogue_says_which_id_is_which_item(exported: Path) -> None:
    lines = [orjson.loads(line) for line in (exported / "items.jsonl").read_bytes().splitlines()]
    ids = SemanticIds.load(exported)
    assert [line["item_id"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["title"] == HOSTILE
    assert all(isinstance(line["categories"], list) for line in lines)
    assert [line["semantic_id"] for line in lines] == [ids.text(number) for number in range(3)]
    assert Codebooks.load(exported).width == 4


def test_it_holds_the_recipe_and_nothing_of_the_run_itself(exported: Path) -> None:
    assert Recipe.load(exported / "recipe.toml").name == "tiny"
    assert not {"manifest.json", "tensorboard", "added_rows.json"} & {path.name for path in exported.iterdir()}


def test_the_card_tells_of_the_model_and_hostile_text_stays_text(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    page = MarkdownIt().enable("table").render(card.split("---\n", 2)[2])
    for told in ("somewhere/llama", "f00d", "0.2500", "2 x 2", "20 beams", "seen items dropped"):
        assert told in page
    assert "<pause>" * 5 not in page, "escaped"
    assert "&lt;pause&gt;" * 5 in page
    assert "alert(1)" in page, "the hostile title stands in the example prompt"
    assert page.count("<pre>") == 1
    assert "<b>" not in page
    assert "<script" not in page
    assert 'javascript:1"' not in page
    assert page.count("<h2>") == 7


def test_a_folder_that_is_not_empty_is_left_alone(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="choose another one"):
        export_run(run_folder, tmp_path)
    with pytest.raises(RunError, match="choose another one"):
        export_run(run_folder, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_made_is_named_as_it_was_given(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"file/new cannot be made \(.*\): choose another folder"):
        export_run(run_folder, tmp_path / "file" / "new")


def test_an_empty_folder_is_filled(run_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "empty"
    target.mkdir()
    assert (export_run(run_folder, target) / "README.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_model_is_chosen_by_its_row(run_folder: Path, tmp_path: Path) -> None:
    export_run(run_folder, tmp_path / "named", model="mine")
    with pytest.raises(RunError, match="has no model 'other'"):
        export_run(run_folder, tmp_path / "other", model="other")
    assert [path.name for path in tmp_path.iterdir()] == ["named"]


@pytest.mark.parametrize("other", [{"stage": "sft"}, {"stage": "implicit_sft", "pauses": 0}])
def test_a_row_of_the_same_name_that_tests_something_else_says_nothing(other: dict[str, object]) -> None:
    plain = CheckpointRow(name="implicit_sft", stage="implicit_sft")
    recipe = Recipe.parse(RECIPE | {"evaluation": {"models": [{"name": "implicit_sft", **other}]}})
    assert not was_tested(recipe, row_test(recipe, plain), "implicit_sft")
    assert was_tested(recipe, row_test(recipe, recipe.evaluation.models[0]), str(other["stage"]))


def test_a_failure_leaves_nothing_behind(run_folder: Path, tmp_path: Path) -> None:
    result = run_folder / "result.json"
    content = result.read_bytes()
    try:
        result.write_bytes(b"{}")
        with pytest.raises(RunError, match=r"result\.json is damaged"):
            export_run(run_folder, tmp_path / "new")
        broken = orjson.loads(content)
        del broken["models"]
        result.write_bytes(orjson.dumps(broken))
        with pytest.raises(KeyError):
            export_run(run_folder, tmp_path / "new")
        result.unlink()
        with pytest.raises(RunError, match="is not finished"):
            export_run(run_folder, tmp_path / "new")
    finally:
        result.write_bytes(content)
    assert not list(tmp_path.iterdir())


def test_no_run_no_export(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        export_run(tmp_path, tmp_path / "new")


@given(st.text(alphabet="`*_{}[]()<>#!|~&:$\\ab./\n", max_size=40))
def test_escaped_text_is_text(text: str) -> None:
    page = MarkdownIt().render(f"x{escape(text)}x")
    assert page.count("<") == 2, "a paragraph and nothing else"
    assert page.startswith("<p>x")
