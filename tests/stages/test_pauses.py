"""The pauses live: their row gets a gradient and moves the SID logits; and they stand where the paper puts them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pauserec.config import PausePretrainConfig, PromptConfig
from pauserec.data.splits import load_dataset
from pauserec.llm.model import LanguageModel, load_rows
from pauserec.llm.prompts import Corpus, Format, Prompts
from pauserec.llm.tree import Document, TreePass
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.corpus import corpus_batches
from pauserec.stages.objective import Objective
from pauserec.stages.pause_pretrain import ROW, first_pause_row, insert_pauses, word_starts


@pytest.fixture
def model(tiny_run: Path) -> LanguageModel:
    return LanguageModel.load(tiny_run / "implicit_sft", SemanticIds.load(tiny_run / "semantic_ids"))


def prompt_logits(model: LanguageModel, run: Path, pauses: int) -> torch.Tensor:
    ids, items = SemanticIds.load(run / "semantic_ids"), load_dataset(run / "dataset").items
    prompts = Prompts(model.tokenizer, model.vocabulary, ids, items, PromptConfig(), Format(("title",), pauses))
    tokens = torch.tensor(prompts.prompt(np.array([1, 2, 3])))
    hidden = model.hidden(tokens, TreePass([Document(len(tokens))]))
    return model.logits(hidden[-1], model.vocabulary.level_rows(0))


def test_pauses_change_the_sid_logits(model: LanguageModel, tiny_run: Path) -> None:
    with torch.no_grad():
        assert not torch.allclose(prompt_logits(model, tiny_run, 5), prompt_logits(model, tiny_run, 0), atol=1e-3)


def test_the_pause_row_gets_a_gradient_from_the_sid_logits(model: LanguageModel, tiny_run: Path) -> None:
    (gradient,) = torch.autograd.grad(prompt_logits(model, tiny_run, 5).square().sum(), [model.table])
    assert gradient[model.vocabulary.pause].abs().max() > 0


def test_implicit_sft_starts_from_the_pretrained_pause_row(tiny_run: Path) -> None:
    ids = SemanticIds.load(tiny_run / "semantic_ids")
    cpt, sft = (LanguageModel.load(tiny_run / name, ids) for name in ("cpt", "sft"))
    row = load_rows(tiny_run / "pause_pretrain" / ROW)[0]
    assert not torch.equal(row, cpt.table[cpt.vocabulary.pause])
    assert not torch.equal(row, sft.table[sft.vocabulary.pause])


def test_cpt_trains_the_sid_rows_and_nothing_else(tiny_run: Path) -> None:
    ids = SemanticIds.load(tiny_run / "semantic_ids")
    base, cpt = (LanguageModel.load(tiny_run / name, ids) for name in ("base", "cpt"))
    rows = base.vocabulary.sid_rows
    changed = (base.table != cpt.table).any(1).nonzero()[:, 0].tolist()
    assert set(changed) <= set(rows)
    assert len(changed) > len(rows) // 2
    after = dict(cpt.hf.named_parameters())
    for name, parameter in base.hf.named_parameters():
        assert "embed" in name or torch.equal(parameter, after[name])


def test_pauses_take_a_tenth_and_never_split_a_word_or_an_id(model: LanguageModel, tiny_run: Path) -> None:
    ids, items = SemanticIds.load(tiny_run / "semantic_ids"), load_dataset(tiny_run / "dataset").items
    corpus, starts = Corpus(model.tokenizer, model.vocabulary, ids, items), word_starts(model)
    tokens = corpus.history(np.arange(20))
    pause = model.vocabulary.pause
    mixed = insert_pauses(tokens, pause, starts, 0.1, np.random.default_rng(0))
    assert [token for token in mixed if token != pause] == tokens
    assert mixed.count(pause) == round(0.1 * len(tokens))
    after = [b for a, b in pairwise(mixed) if a == pause and b != pause]
    assert all(starts[token] for token in after)
    assert not any(model.vocabulary.code_offsets[0] <= token < pause for token in after), "never before a code"


def test_no_position_learns_to_say_pause(model: LanguageModel) -> None:
    pause = model.vocabulary.pause
    document = ("text", 0, np.zeros(0, dtype=np.int64))
    batches = corpus_batches(
        [document],
        lambda _: [5, pause, 6, pause, pause, 7],
        epochs=1,
        batch_tokens=64,
        seed=0,
        is_target=lambda token: token != pause,
    )
    assert batches[0]["labels"].tolist() == [-100, 6, -100, -100, 7]


@pytest.mark.parametrize("init", ["mean", "text_mean", "sid_mean", "default"])
def test_the_pause_row_starts_where_the_recipe_says(model: LanguageModel, init: str) -> None:
    stage = PausePretrainConfig(name="p", kind="pause_pretrain", init=init, init_noise=0.0)  # type: ignore[arg-type]
    first, pause = model.vocabulary.first_sid, model.vocabulary.pause
    rows = {"mean": slice(0, pause), "text_mean": slice(0, first), "sid_mean": slice(first, pause)}
    expected = model.table[rows.get(init, slice(pause, pause + 1))].mean(0)
    torch.testing.assert_close(first_pause_row(model, stage), expected)


def test_an_objective_is_a_sum_over_targets(model: LanguageModel) -> None:
    batches = corpus_batches(
        [("text", n, np.zeros(0, dtype=np.int64)) for n in range(3)],
        lambda document: [5, 6, 7 + document[1]],
        epochs=1,
        batch_tokens=64,
        seed=0,
    )
    batch = batches[0]
    objective = Objective(model)
    tokens, labels = torch.from_numpy(batch["tokens"]), torch.from_numpy(batch["labels"])
    whole = objective(tokens, labels, batch["layout"])
    parts = [objective(tokens[i : i + 2], labels[i : i + 2], [(2, ())]) for i in range(0, 6, 2)]
    torch.testing.assert_close(whole, torch.stack(parts).sum())
