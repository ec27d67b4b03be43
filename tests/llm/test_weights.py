"""A checkpoint as the difference from another: smaller, and the same model again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pauserec.config import Recipe
from pauserec.data.dataset import load_dataset
from pauserec.errors import RunError
from pauserec.llm.model import LanguageModel
from pauserec.llm.weights import DIFFERENCE, halved, halved_all, input_table, whole_checkpoint
from pauserec.pipeline import run
from pauserec.results.testing import row_test
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds


@pytest.fixture
def base(tiny_run: Path) -> Path:
    return tiny_run / "base"


@pytest.fixture
def ids(tiny_run: Path) -> SemanticIds:
    return SemanticIds.load(tiny_run / "semantic_ids")


def test_halves_keep_what_float16_can_hold() -> None:
    weights = torch.tensor([0.1, -3.0, 1e-3])
    torch.testing.assert_close(halved(weights).float(), weights, rtol=1e-3, atol=1e-7)
    assert halved(weights).dtype == torch.float16
    assert halved(torch.tensor([1e6])).dtype == torch.float32, "it would overflow"
    assert halved(torch.tensor([3])).dtype == torch.int64
    tied = halved_all({"a": weights, "b": weights, "c": weights.clone()})
    assert tied["a"] is tied["b"]
    assert tied["a"] is not tied["c"]


def test_a_tied_table_is_stored_once(base: Path) -> None:
    names = list(load_file(base / "model.safetensors"))
    assert sum("embed_tokens" in name or "lm_head" in name for name in names) == 1


def test_rows_and_tensors_that_changed_come_back_and_nothing_else_is_written(
    base: Path, ids: SemanticIds, tmp_path: Path
) -> None:
    model = LanguageModel.load(base, ids)
    with torch.no_grad():
        model.table[[3, 7]] += 1.0
        model.hf.base_model.layers[0].mlp.up_proj.weight.mul_(2.0)
    wanted = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    folder = tmp_path / "stage"
    folder.mkdir()
    model.save(folder, start=base)
    changed = load_file(folder / DIFFERENCE)
    assert sorted(key.partition(" ")[0] for key in changed if " " in key) == ["places", "rows"]
    assert len(changed) == 3
    assert whole_checkpoint(folder) == base.resolve()
    again = LanguageModel.load(folder, ids).hf.state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-3, atol=1e-6)
    table = input_table(folder)
    assert table is not None
    torch.testing.assert_close(table.float(), wanted["model.embed_tokens.weight"], rtol=1e-3, atol=1e-6)


def test_a_difference_rests_on_the_whole_checkpoint_and_not_on_another_difference(
    base: Path, ids: SemanticIds, tmp_path: Path
) -> None:
    for name, start in (("one", base), ("two", tmp_path / "one")):
        model = LanguageModel.load(start, ids)
        with torch.no_grad():
            model.table[5] += 1.0
        (tmp_path / name).mkdir()
        model.save(tmp_path / name, start=start)
    assert whole_checkpoint(tmp_path / "two") == base.resolve()
    before, after = LanguageModel.load(base, ids), LanguageModel.load(tmp_path / "two", ids)
    torch.testing.assert_close(after.table[5], before.table[5] + 2, rtol=1e-2, atol=1e-3)


def test_a_damaged_difference_is_named(base: Path, ids: SemanticIds, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    LanguageModel.load(base, ids).save(folder, start=base)
    (folder / DIFFERENCE).write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"difference\.safetensors is damaged.*--redo stage"):
        LanguageModel.load(folder, ids)


def test_sixteen_bits_rank_as_thirty_two_do(tiny_run: Path, tiny_recipe: Recipe, ids: SemanticIds, base: Path) -> None:
    """The lists that a row is tested by are the same from the weights as they were trained and as they are kept."""
    dataset = load_dataset(tiny_run / "dataset")
    model = LanguageModel.load(tiny_run / "sft", ids)
    kept = row_test(tiny_recipe, tiny_recipe.evaluation.models[0]).recommender(
        FinishedStep("sft", tiny_run / "sft", "", {}), ids, dataset
    )
    noise = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # what rounding to float16 could have taken away, a half of its last bit
        shift = torch.rand(parameter.shape, generator=noise) - 0.5
        parameter.data += parameter.data.abs() * 2.0**-11 * shift
    kept_lists = kept.top(dataset.training_sequences(), 20, drop_seen=True)
    kept.model = model.prepare_inference()
    lists = kept.top(dataset.training_sequences(), 20, drop_seen=True)
    assert (lists.items[:, :10] == kept_lists.items[:, :10]).mean() > 0.99
    torch.testing.assert_close(torch.from_numpy(lists.scores), torch.from_numpy(kept_lists.scores), rtol=0, atol=2e-2)


def test_keeping_all_keeps_whole_models_with_equal_results(
    tiny_run: Path, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    import orjson

    run(Recipe.parse(tiny_settings() | {"keep": "all"}), tmp_path / "run", reuse=(tiny_run,), redo=("sft",))
    assert (tmp_path / "run" / "sft" / "config.json").exists()
    assert not (tmp_path / "run" / "sft" / DIFFERENCE).exists()
    found = [orjson.loads((folder / "result.json").read_bytes())["models"] for folder in (tiny_run, tmp_path / "run")]
    assert found[0]["sft"]["test"] == found[1]["sft"]["test"]
