"""Growing, training a few rows, saving: the rest of the model stays what it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pauserec.config import ModelConfig
from pauserec.errors import ModelError
from pauserec.llm.model import LanguageModel, grow_vocabulary
from pauserec.llm.tree import Document, TreePass
from pauserec.losses import full_softmax_loss
from pauserec.run import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds

IDS = SemanticIds(np.array([[a, b] for a in range(4) for b in range(4)]), (4, 4))


@pytest.fixture(params=["tied", "untied"])
def source(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, or the same with a head of its own."""
    if request.param == "tied":
        return tiny_model
    config = LlamaConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = False
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


def grow(source: Path, tmp_path: Path) -> Path:
    ids, out = tmp_path / "ids", tmp_path / "base"
    ids.mkdir()
    out.mkdir()
    IDS.save(ids)
    step = FinishedStep("semantic_ids", ids, "f", {})
    grow_vocabulary(ModelConfig(name=str(source)), step, out=out, log=lambda **_: None)
    return out


@pytest.fixture
def base(source: Path, tmp_path: Path) -> Path:
    return grow(source, tmp_path)


def test_growing_keeps_old_rows_and_pads_the_table(base: Path, source: Path) -> None:
    model, old = LanguageModel.load(base, IDS), AutoModelForCausalLM.from_pretrained(source)
    before = old.get_input_embeddings().weight
    torch.testing.assert_close(model.table[: len(before)], before)
    assert model.vocabulary.used == len(before) + 2 + 8 + 1
    assert len(model.table) % 64 == 0
    assert len(torch.unique(model.table[model.vocabulary.first_sid : model.vocabulary.used], dim=0)) == 11


def test_padding_rows_are_no_part_of_the_softmax(base: Path) -> None:
    model = LanguageModel.load(base, IDS)
    assert model.logits(torch.randn(2, 48)).shape == (2, model.vocabulary.used)


def test_a_checkpoint_is_a_plain_hugging_face_folder(base: Path) -> None:
    model = LanguageModel.load(base, IDS)
    plain = AutoModelForCausalLM.from_pretrained(base)
    tokens = torch.randint(0, model.vocabulary.used, (9,))
    with torch.no_grad():
        ours = model.logits(model.hidden(tokens, TreePass([Document(9)])))
        theirs = plain(tokens[None]).logits[0, :, : model.vocabulary.used]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_row_block_has_the_full_models_gradient_on_its_rows_and_no_other(base: Path) -> None:
    model = LanguageModel.load(base, IDS)
    rows = range(model.vocabulary.sid_rows.start, model.vocabulary.sid_rows.stop)
    tokens = torch.randint(0, model.vocabulary.used, (30,))

    def loss() -> torch.Tensor:
        hidden = model.hidden(tokens, TreePass([Document(30)]))
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


def test_trained_rows_are_merged_on_saving(base: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(base, IDS)
    model.train_rows(range(model.vocabulary.pause, model.vocabulary.pause + 1))
    assert model.block is not None
    with torch.no_grad():
        model.block.rows += 1
    row = model.block.rows.detach().clone()
    model.save(tmp_path / "saved")
    again = LanguageModel.load(tmp_path / "saved", IDS)
    torch.testing.assert_close(again.table[again.vocabulary.pause], row[0])
    assert all(parameter.requires_grad for parameter in model.hf.parameters())


def test_a_grown_model_is_not_grown_again(base: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with pytest.raises(ModelError, match="already has"):
        grow(base, tmp_path / "second")


def test_more_layers_than_there_are_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    IDS.save(tmp_path)
    config = ModelConfig(name=str(tiny_model), layers=9)
    with pytest.raises(ModelError, match=r"model.layers is 9, but .* has 2"):
        grow_vocabulary(config, FinishedStep("s", tmp_path, "f", {}), out=tmp_path, log=lambda **_: None)
