"""Training a few rows, saving: the rest of the model stays what it was."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.passes import TreePass
from pauserec.llm.tree.rule import Layout
from pauserec.runs.device import cpu_doubles_bfloat16
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.training.losses import full_softmax_loss


def test_padding_rows_are_no_part_of_the_softmax(base: Path, sixteen: SemanticIds) -> None:
    model = LanguageModel.load(base, sixteen)
    assert model.logits(torch.randn(2, 48)).shape == (2, model.vocabulary.used)


def test_a_checkpoint_is_a_plain_hugging_face_folder(base: Path, sixteen: SemanticIds) -> None:
    model = LanguageModel.load(base, sixteen)
    plain = AutoModelForCausalLM.from_pretrained(base)
    tokens = torch.randint(0, model.vocabulary.used, (9,))
    with torch.no_grad():
        ours = model.logits(model.hidden(tokens, TreePass(Layout.of_trunks([9]))))
        theirs = plain(tokens[None]).logits[0, :, : model.vocabulary.used]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_row_block_has_the_full_models_gradient_on_its_rows_and_no_other(base: Path, sixteen: SemanticIds) -> None:
    model = LanguageModel.load(base, sixteen)
    rows = range(model.vocabulary.sid_rows.start, model.vocabulary.sid_rows.stop)
    tokens = torch.randint(0, model.vocabulary.used, (30,))

    def loss() -> torch.Tensor:
        hidden = model.hidden(tokens, TreePass(Layout.of_trunks([30])))
        return full_softmax_loss(hidden[:-1], tokens[1:], model.output())

    whole = loss()
    tables = [model.table] if model.table is model.head else [model.table, model.head]
    expected = [gradient[rows.start : rows.stop] for gradient in torch.autograd.grad(whole, tables)]
    model.train_rows(rows)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == len(tables) * len(rows) * 48
    again = loss()
    torch.testing.assert_close(again, whole)
    for found, wanted in zip(torch.autograd.grad(again, trained), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_trained_rows_are_merged_on_saving(base: Path, tmp_path: Path, sixteen: SemanticIds) -> None:
    model = LanguageModel.load(base, sixteen)
    model.train_rows(range(model.vocabulary.pause, model.vocabulary.pause + 1))
    assert model.block is not None
    with torch.no_grad():
        model.block.rows += 1
    row = model.block.rows.detach().clone()
    model.save(tmp_path / "saved")
    again = LanguageModel.load(tmp_path / "saved", sixteen)
    torch.testing.assert_close(again.table[again.vocabulary.pause], row[0], rtol=1e-3, atol=1e-6)
    assert all(parameter.requires_grad for parameter in model.hf.parameters())


@pytest.mark.parametrize(
    ("processor", "pays"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, False),
        ({"architecture": "arm64", "bf16": True}, False),
    ],
)
def test_bfloat16_is_used_only_where_its_products_are_faster(processor: dict[str, Any], pays: bool) -> None:
    assert cpu_doubles_bfloat16(processor) is pays


def test_building_a_model_changes_nothing_of_the_process(base: Path, sixteen: SemanticIds) -> None:
    def switches() -> dict[str, object]:
        cuda = torch.backends.cuda
        return {
            "environment": dict(os.environ),
            "kernels": (cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()),
            "threads": torch.get_num_threads(),
            "type": torch.get_default_dtype(),
            "draws": torch.get_rng_state().tolist(),
        }

    before = switches()
    model = LanguageModel.load(base, sixteen)
    model.hidden(torch.tensor([1, 2, 3]), TreePass(Layout.of_trunks([3])))
    assert switches() == before
