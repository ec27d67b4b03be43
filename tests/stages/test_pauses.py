"""The pauses live: their row gets a gradient and moves the SID logits; and they stand where the paper puts them."""

from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pauserec.config import CptConfig, Format, PausePretrainConfig, PromptConfig, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel, load_rows
from pauserec.llm.prompts import Corpus, Prompts
from pauserec.llm.tree.passes import TreePass
from pauserec.llm.tree.rule import Layout
from pauserec.records import Dataset, Item
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.corpus import CorpusDocument, corpus_batches, corpus_documents, document_tokens
from pauserec.stages.implicit_sft import implicit_sft
from pauserec.stages.objective import Objective
from pauserec.stages.pause_pretrain import ROW, first_pause_row, insert_pauses, pause_pretrain, word_starts
from pauserec.training.batches import Batches


def finished(run: Path, *models: str) -> list[FinishedStep]:
    return [FinishedStep(name, run / name, "", {}) for name in (*models, "dataset", "semantic_ids")]


@pytest.fixture
def model(tiny_run: Path) -> LanguageModel:
    return LanguageModel.load(tiny_run / "implicit_sft", SemanticIds.load(tiny_run / "semantic_ids"))


def prompt_logits(model: LanguageModel, run: Path, pauses: int) -> torch.Tensor:
    ids, items = SemanticIds.load(run / "semantic_ids"), load_dataset(run / "dataset").items
    prompts = Prompts(model.tokenizer, model.vocabulary, ids, items, PromptConfig(), Format(("title",), pauses))
    tokens = torch.tensor(prompts.prompt(np.array([1, 2, 3])))
    hidden = model.hidden(tokens, TreePass(Layout.of_trunks([len(tokens)])))
    return model.logits(hidden[-1], model.vocabulary.levels[0])


def test_pauses_change_the_sid_logits(model: LanguageModel, tiny_run: Path) -> None:
    with torch.no_grad():
        assert not torch.allclose(prompt_logits(model, tiny_run, 5), prompt_logits(model, tiny_run, 0), atol=1e-3)


def test_the_pause_row_gets_a_gradient_from_the_sid_logits(model: LanguageModel, tiny_run: Path) -> None:
    (gradient,) = torch.autograd.grad(prompt_logits(model, tiny_run, 5).square().sum(), [model.table])
    assert gradient[model.vocabulary.pause].abs().max() > 0


def test_implicit_sft_starts_from_the_pretrained_pause_row(tiny_run: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    ids = SemanticIds.load(tiny_run / "semantic_ids")
    sft = LanguageModel.load(tiny_run / "sft", ids)
    pause = sft.vocabulary.pause
    head = sft.head[pause].detach().clone()
    sft.hf.config.tie_word_embeddings = False
    sft.hf.get_output_embeddings().weight = torch.nn.Parameter(sft.head.detach().clone())
    sft.save(tmp_path / "untied")
    stage = tiny_recipe.stages[-1].model_copy(update={"learning_rate": 1e-12, "epochs": 0.05})
    steps = finished(tiny_run, "sft", "pause_pretrain")
    row = load_rows(tiny_run / "pause_pretrain" / ROW)[0]
    assert not torch.equal(row, head)
    for name, start, expected in (
        ("tied", steps[0], row),
        ("untied", FinishedStep("sft", tmp_path / "untied", "", {}), head),  # what is never written keeps its own row
    ):
        out = tmp_path / f"{name}-out"
        out.mkdir()
        implicit_sft(stage.job(tiny_recipe), start, *steps[1:], out=out, log=lambda **_: None)  # type: ignore[arg-type]
        trained = LanguageModel.load(out, ids)
        torch.testing.assert_close(trained.table[pause], row)
        torch.testing.assert_close(trained.head[pause], expected)


def test_pause_pretraining_inserts_the_share_asked_for_and_teaches_no_pause(
    tiny_run: Path, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[Batches[CorpusDocument], LanguageModel]] = []

    def fitted(objective: Objective, batches: Batches[CorpusDocument], *_: object, **__: object) -> dict[str, object]:
        found.append((batches, objective.model))
        return {"tokens": 0, "training_seconds": 1.0}

    module = import_module("pauserec.stages.pause_pretrain")
    monkeypatch.setattr(module, "fit", fitted)
    monkeypatch.setattr(module, "with_cost", lambda summary, *_, **__: summary)
    stage = tiny_recipe.stages[2].model_copy(update={"share": 0.4, "corpus": "histories"})
    job = stage.job(tiny_recipe)
    pause_pretrain(job, *finished(tiny_run, "cpt"), out=tmp_path, log=lambda **_: None)  # type: ignore[arg-type]
    ((batches, model),) = found
    tokens, labels = (np.concatenate([batches[n][key] for n in range(len(batches))]) for key in ("tokens", "labels"))
    pause, starts = model.vocabulary.pause, word_starts(model.tokenizer, model.vocabulary)
    dataset, ids = load_dataset(tiny_run / "dataset"), SemanticIds.load(tiny_run / "semantic_ids")
    corpus = Corpus(model.tokenizer, model.vocabulary, ids, dataset.items)
    documents = corpus_documents(dataset, corpus, job.history_length, stage.batch_tokens)
    words = starts[tokens].sum() + len(documents)  # a document's first word has no space before it
    assert (tokens == pause).sum() / words == pytest.approx(0.4, abs=0.01)
    assert pause not in labels


def test_the_start_of_a_pause_row_has_the_noise_asked_for(model: LanguageModel) -> None:
    def start(noise: float) -> torch.Tensor:
        stage = PausePretrainConfig(name="p", kind="pause_pretrain", init_noise=noise)
        return first_pause_row(model, stage).detach()

    moved = start(1e-2) - start(0.0)
    expected = (1e-2 * model.table[: model.vocabulary.pause].detach().var()).sqrt()
    assert float(moved.std()) == pytest.approx(float(expected), rel=0.4)


def test_running_text_shows_training_events_alone(model: LanguageModel, tiny_run: Path) -> None:
    ids = SemanticIds.load(tiny_run / "semantic_ids")
    items = tuple(Item(str(number)) for number in range(len(ids.codes)))
    data = Dataset(items, ("u", "v"), (np.arange(7), np.arange(7, 12)), "")
    corpus = Corpus(model.tokenizer, model.vocabulary, ids, items)
    shown = [document.items.tolist() for document in corpus_documents(data, corpus, 3, 10_000)]
    assert shown == [[0, 1, 2], [3, 4], [7, 8, 9]]


def test_running_text_fits_a_batch_however_long_the_texts(model: LanguageModel, tiny_run: Path) -> None:
    ids = SemanticIds.load(tiny_run / "semantic_ids")
    items = tuple(Item(str(n), "word " * (10**5 if n == 3 else 20 * n)) for n in range(len(ids.codes)))
    data = Dataset(items, ("u",), (np.arange(14),), "")
    corpus = Corpus(model.tokenizer, model.vocabulary, ids, items)
    documents = corpus_documents(data, corpus, 20, 800)
    assert np.concatenate([document.items for document in documents]).tolist() == list(range(12)), "nothing is dropped"
    assert max(len(document_tokens(corpus, document)) for document in documents) <= 800
    assert 1 < len(documents) < 12


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


def test_pauses_are_a_tenth_of_the_words_and_never_split_a_word_or_an_id(model: LanguageModel, tiny_run: Path) -> None:
    ids, items = SemanticIds.load(tiny_run / "semantic_ids"), load_dataset(tiny_run / "dataset").items
    corpus, starts = (
        Corpus(model.tokenizer, model.vocabulary, ids, items),
        word_starts(model.tokenizer, model.vocabulary),
    )
    tokens = corpus.history(np.arange(20))
    pause = model.vocabulary.pause
    mixed = insert_pauses(tokens, pause, starts, 0.1, np.random.default_rng(0))
    assert [token for token in mixed if token != pause] == tokens
    words = model.tokenizer.decode(tokens).split()
    assert mixed.count(pause) == pytest.approx(0.1 * len(words), rel=0.15), "as in F.1: 8 pauses in 80 words"
    assert mixed.count(pause) == round(0.1 * (1 + sum(starts[token] for token in tokens[1:])))
    after = [b for a, b in pairwise(mixed) if a == pause and b != pause]
    assert all(starts[token] for token in after)
    assert not any(model.vocabulary.code_offsets[0] <= token < pause for token in after), "never before a code"


def test_no_position_learns_to_say_pause(model: LanguageModel) -> None:
    pause = model.vocabulary.pause
    document = CorpusDocument(0, "text_first", np.array([0]))
    batches = corpus_batches(
        CptConfig(kind="cpt", name="cpt", epochs=1, batch_tokens=64),
        [document],
        lambda _: [5, pause, 6, pause, pause, 7],
        positions=64,
        is_target=lambda token: token != pause,
    )
    assert batches[0]["places"].tolist() == [1, 4]
    assert batches[0]["labels"].tolist() == [6, 7]


@pytest.mark.parametrize("init", ["mean", "text_mean", "sid_mean", "default"])
def test_the_pause_row_starts_where_the_recipe_says(model: LanguageModel, init: str) -> None:
    stage = PausePretrainConfig(name="p", kind="pause_pretrain", init=init, init_noise=0.0)  # type: ignore[arg-type]
    first, pause = model.vocabulary.first_sid, model.vocabulary.pause
    rows = {"mean": slice(0, pause), "text_mean": slice(0, first), "sid_mean": slice(first, pause)}
    expected = model.table[rows.get(init, slice(pause, pause + 1))].mean(0)
    torch.testing.assert_close(first_pause_row(model, stage), expected)


def test_an_objective_is_a_sum_over_targets(model: LanguageModel) -> None:
    batches = corpus_batches(
        CptConfig(kind="cpt", name="cpt", epochs=1, batch_tokens=64),
        [CorpusDocument(n, "text_first", np.array([n])) for n in range(3)],
        lambda document: [5, 6, 7 + document.number],
        positions=64,
    )
    batch = batches[0]
    objective = Objective(model)
    tokens, places, labels = (torch.from_numpy(batch[key]) for key in ("tokens", "places", "labels"))
    assert places.tolist() == list(range(6))
    whole = objective(tokens, batch["layout"], places, labels)
    parts = [objective(tokens[i : i + 2], Layout.of_trunks([2]), places[:2], labels[i : i + 2]) for i in range(0, 6, 2)]
    torch.testing.assert_close(whole, torch.stack(parts).sum())
