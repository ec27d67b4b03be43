"""Next-item samples: one pass over a trunk with branches trains the same as separate samples."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from pauserec.config import Format, ImplicitSftConfig, LoraSettings, NextItemJob, PromptConfig, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.errors import ModelError
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.samples import Branch, Sample, collate
from pauserec.records import Item
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item_rows import Window
from pauserec.stages.next_item_samples import NextItemSamples, windows
from pauserec.stages.objective import Objective
from pauserec.training.batches import IGNORE

SEQUENCE = np.array([3, 1, 4, 15, 9, 2, 6, 5])


@given(st.integers(2, 200), st.integers(1, 30), st.floats(0, 0.95))
def test_windows_make_every_event_but_the_first_a_target_once(length: int, size: int, overlap: float) -> None:
    found = windows(0, length, size, overlap)
    targets = sorted(target for window in found for target in window.targets)
    assert targets == list(range(1, length))
    for window in found:
        assert window.start < min(window.targets)
        assert max(window.targets) == window.stop
        assert window.stop - window.start <= size
        assert window.fresh == min(window.targets)


@pytest.fixture
def parts(tiny_run: Path, tiny_recipe: Recipe) -> tuple[LanguageModel, Prompts, NextItemJob]:
    ids = SemanticIds.load(tiny_run / "semantic_ids")
    model = LanguageModel.load(tiny_run / "implicit_sft", ids)
    items = load_dataset(tiny_run / "dataset").items
    form = Format(("title", "categories"), 5, 6)
    prompts = Prompts(model.tokenizer, model.vocabulary, ids, items, tiny_recipe.prompt, form)
    job = tiny_recipe.stages[-1].job(tiny_recipe)
    assert isinstance(job, NextItemJob)
    return model, prompts, job


def samples(parts: tuple[LanguageModel, Prompts, NextItemJob], **stage: Any) -> NextItemSamples:
    _, prompts, job = parts
    changed = ImplicitSftConfig.model_validate(job.stage.model_dump() | stage)
    return NextItemSamples(job.model_copy(update={"stage": changed}), prompts, [SEQUENCE])


@pytest.mark.parametrize("most", [1, 2, 3, None])
def test_with_loss_on_the_history_every_event_but_the_first_carries_loss(
    parts: tuple[LanguageModel, Prompts, NextItemJob], most: int | None
) -> None:
    made = samples(parts, targets="all", loss_on="history", targets_per_history=most, window_overlap=0.0, epochs=3)
    size = parts[1].form.history_length
    for epoch in range(3):
        trained: list[int] = []
        for window in made._windows(epoch, np.random.default_rng(epoch)):
            assert len(window.targets) == min(most or size, window.stop - window.fresh + 1)
            trained += [*range(window.fresh, window.stop), *window.targets]
        assert set(trained) == set(range(1, len(SEQUENCE)))


def test_with_loss_on_targets_the_drawn_ones_change_from_epoch_to_epoch(
    parts: tuple[LanguageModel, Prompts, NextItemJob],
) -> None:
    made = samples(parts, targets="all", loss_on="target", targets_per_history=1, window_overlap=0.0)
    drawn = {made._windows(epoch, np.random.default_rng(epoch))[0].targets for epoch in range(40)}
    assert len(drawn) == len(windows(0, len(SEQUENCE), parts[1].form.history_length, 0.0)[0].targets)


def loss_of(
    model: LanguageModel, made: list[Sample], softmax: str = "full", opening: Sequence[int] = (), **settings: Any
) -> torch.Tensor:
    batch = collate(made, opening).batch(model.vocabulary.levels if softmax == "codebook" else ())
    del batch["count"]
    tensors = {key: torch.from_numpy(batch.pop(key)).to(model.device) for key in ("tokens", "places", "labels")}
    return Objective(model, softmax, **settings)(**tensors, **batch)  # type: ignore[arg-type,no-any-return]


def assert_same_gradients(model: LanguageModel, one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    weights = [p for p in model.hf.parameters() if p.requires_grad]
    for left, right in zip(*(torch.autograd.grad(loss, weights) for loss in (one, other)), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_packed_samples_train_as_padded_ones_do_with_all_logits(
    parts: tuple[LanguageModel, Prompts, NextItemJob], tmp_path: Path
) -> None:
    """The textbook: Hugging Face's own forward over a padded batch, every position's logits, cross-entropy."""
    model, opening = parts[0], parts[1].opening
    model.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    make = samples(parts, targets="last")
    made = [make.build(Window(0, max(0, stop - 6), stop, (stop,), stop)) for stop in (2, 4, 7)]
    longest = len(opening) + max(sample.length for sample in made)
    tokens, labels = torch.zeros(3, longest, dtype=torch.int64), torch.full((3, longest), IGNORE)
    for row, sample in enumerate(made):
        whole = torch.tensor([*opening, *sample.tokens])
        tokens[row, : len(whole)] = whole
        labels[row, len(opening) : len(whole)] = torch.from_numpy(sample.labels)
    mask = torch.arange(longest) < torch.tensor([[len(opening) + sample.length] for sample in made])
    logits = theirs(input_ids=tokens, attention_mask=mask.long()).logits[..., : model.vocabulary.used]
    padded = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    packed = loss_of(model, made, opening=opening)
    assert float(packed.detach()) == pytest.approx(float(padded.detach()), rel=1e-5)
    weights = dict(model.hf.named_parameters())
    names = [name for name, _ in theirs.named_parameters()]
    ours = torch.autograd.grad(packed, [weights[name] for name in names])
    textbook = torch.autograd.grad(padded, list(theirs.parameters()))
    apart = sum(float((one - other).square().sum()) for one, other in zip(ours, textbook, strict=True))
    assert apart**0.5 < 1e-5 * sum(float(other.square().sum()) for other in textbook) ** 0.5


def test_gradient_checkpointing_changes_no_gradient(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    model = copy.deepcopy(parts[0]).train()
    made = [samples(parts, targets="all").build(Window(0, 1, 6, (3, 4, 6), 2))]
    stage = parts[2].stage.model_copy(update={"gradient_checkpointing": True})
    plain, calls = loss_of(model, made), []
    model.hf.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    assert_same_gradients(model, plain, loss_of(model, made, settings=stage))
    assert len(calls) == 2, "forward, and once more going backward"


def test_layer_dropout_acts_in_training_alone(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    model = copy.deepcopy(parts[0]).train()
    made = [samples(parts, targets="all").build(Window(0, 1, 6, (3, 4, 6), 2))]
    stage = parts[2].stage.model_copy(update={"layer_dropout": 0.5})
    plain = float(loss_of(model, made).detach())
    torch.manual_seed(0)
    dropped = [float(loss_of(model, made, settings=stage).detach())]
    dropped.append(float(loss_of(model, made).detach()))
    assert len({plain, *dropped}) == 3, "another mask each time"
    model.eval()
    assert float(loss_of(model, made).detach()) == pytest.approx(plain, rel=1e-6)


def test_compiled_layers_have_the_same_gradients(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    model = copy.deepcopy(parts[0]).train()
    made = [samples(parts, targets="all").build(Window(0, 1, 6, (3, 4, 6), 2))]
    stage = parts[2].stage.model_copy(update={"compile": True})
    plain, calls = loss_of(model, made), torch._dynamo.utils.counters["stats"]
    before = calls["unique_graphs"]
    assert_same_gradients(model, plain, loss_of(model, made, settings=stage))
    assert calls["unique_graphs"] > before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_flex_attention_is_refused_without_a_gpu(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    stage = parts[2].stage.model_copy(update={"attention": "flex"})
    with pytest.raises(ModelError, match=f"stages.{stage.name}.attention: flex trains on a GPU only"):
        Objective(parts[0], settings=stage)


def wide_headed(model: LanguageModel) -> LanguageModel:
    """A model of the same vocabulary whose heads have a width that GPU kernels take."""
    config = copy.deepcopy(model.hf.config)
    config.head_dim = 16
    return LanguageModel(AutoModelForCausalLM.from_config(config), model.tokenizer, model.vocabulary)


@pytest.mark.gpu
def test_flex_attention_has_the_same_gradients(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    model = wide_headed(parts[0]).train().cuda()
    made = [samples(parts, targets="all").build(Window(0, 1, 6, (3, 4, 6), 2))]
    stage = parts[2].stage.model_copy(update={"attention": "flex"})
    assert_same_gradients(model, loss_of(model, made), loss_of(model, made, settings=stage))


def test_adapters_alone_train_and_are_merged_into_what_is_saved(
    parts: tuple[LanguageModel, Prompts, NextItemJob], tiny_run: Path, tmp_path: Path
) -> None:
    model = copy.deepcopy(parts[0]).train()
    made = [samples(parts, targets="all").build(Window(0, 1, 6, (3, 4, 6), 2))]
    start, weights = float(loss_of(model, made)), model.state_dict()
    rows = range(model.vocabulary.first_sid, model.vocabulary.used)
    frozen = {name: value.clone() for name, value in weights.items()}
    model.train_rows(rows)
    model.add_adapters(LoraSettings(rank=2, alpha=8.0))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) < 0.4 * sum(p.numel() for p in parts[0].parameters())
    assert all("lora_" in name or name.startswith("block.") for name in trained)
    assert float(loss_of(model, made)) == pytest.approx(start, rel=1e-5), "adapters begin without effect"
    optimizer = torch.optim.Adam(trained.values(), lr=0.02)
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(model, made).backward()
        optimizer.step()
    end = float(loss_of(model, made))
    assert end < start - 0.5
    model.save(tmp_path)
    again = LanguageModel.load(tmp_path, SemanticIds.load(tiny_run / "semantic_ids")).train()
    assert float(loss_of(again, made)) == pytest.approx(end, rel=1e-4)
    changed = [name for name, value in again.state_dict().items() if not torch.equal(value, frozen[name])]
    assert any("q_proj" in name for name in changed)
    assert not any("layernorm" in name for name in changed)
    assert torch.equal(again.table[: rows.start], parts[0].table[: rows.start])


@pytest.mark.parametrize("softmax", ["full", "codebook"])
def test_all_targets_in_one_pass_equal_separate_samples_with_the_same_start(
    parts: tuple[LanguageModel, Prompts, NextItemJob], softmax: str
) -> None:
    model = parts[0]
    window = Window(0, 1, 6, (3, 4, 6), 2)
    together = samples(parts, targets="all").build(window)
    alone = [samples(parts, targets="last").build(Window(0, 1, t, (t,), t)) for t in window.targets]
    assert together.length < sum(sample.length for sample in alone)
    opening = parts[1].opening
    whole = loss_of(model, [together], softmax, opening)
    assert_same_gradients(model, whole, loss_of(model, alone, softmax, opening))


def bare(parts: tuple[LanguageModel, Prompts, NextItemJob], pauses: int = 0) -> tuple[Any, ...]:
    """The same parts with prompts of IDs alone."""
    model, _, job = parts
    items = [Item(str(n)) for n in range(len(parts[1].codes))]
    codes = np.array(parts[1].codes) - np.array(model.vocabulary.code_offsets)
    ids = SemanticIds(codes, model.vocabulary.codebook_sizes)
    form = Format(pauses=pauses, history_length=6)
    return model, Prompts(model.tokenizer, model.vocabulary, ids, items, PromptConfig(template="ids"), form), job


@pytest.mark.parametrize("most", [1, None])
@pytest.mark.parametrize("loss_on", ["target", "history"])
def test_a_history_of_ids_trains_all_its_targets_without_a_branch(
    parts: tuple[LanguageModel, Prompts, NextItemJob], loss_on: str, most: int | None
) -> None:
    made = bare(parts)
    maker = samples(made, targets="all", loss_on=loss_on, loss_on_end=False, targets_per_history=most)
    window = maker.batches().specs()[0]
    together = maker.build(window)
    assert not together.branches
    ends = range(window.fresh, window.stop + 1)
    alone = [
        samples(made, targets="last", loss_on="target", loss_on_end=False).build(Window(0, window.start, t, (t,), t))
        for t in ends
    ]
    opening = made[1].opening
    assert_same_gradients(
        parts[0], loss_of(parts[0], [together], opening=opening), loss_of(parts[0], alone, opening=opening)
    )


@pytest.mark.parametrize("targets", ["last", "all"])
def test_an_opening_run_once_gives_the_gradients_of_one_per_sample(
    parts: tuple[LanguageModel, Prompts, NextItemJob], targets: str
) -> None:
    opening, maker = parts[1].opening, samples(parts, targets=targets, loss_on="history")
    ends = (3, 4, 6) if targets == "all" else (6,)
    made = [maker.build(Window(0, start, 6, ends, start + 1)) for start in (0, 1)]
    assert not any(sample.tokens[0] == opening[0] for sample in made)
    whole = [
        Sample(
            np.concatenate([opening, sample.tokens]),
            np.concatenate([np.full(len(opening), IGNORE), sample.labels]),
            tuple(Branch(len(opening) + b.attach, b.tokens, b.labels) for b in sample.branches),
        )
        for sample in made
    ]
    assert_same_gradients(parts[0], loss_of(parts[0], made, opening=opening), loss_of(parts[0], whole))


def test_loss_stands_on_the_targets_codes_alone(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    prompts = parts[1]
    sample = samples(parts, targets="last").build(Window(0, 0, 5, (5,), 1))
    assert sample.labels[sample.labels != IGNORE].tolist() == prompts.codes[SEQUENCE[5]]
    assert sample.tokens[len(sample.tokens) - 3] == prompts.vocabulary.begin


def test_loss_on_the_history_adds_each_later_items_codes(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    sample = samples(parts, targets="all", loss_on="history").build(Window(0, 0, 5, (3, 5), 1))
    expected = [code for item in SEQUENCE[1:5] for code in parts[1].codes[item]]
    assert sample.labels[sample.labels != IGNORE].tolist() == expected


def test_loss_on_the_end_adds_what_decoding_forces(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    prompts = parts[1]
    sample = samples(parts, targets="last", loss_on_end=True).build(Window(0, 0, 5, (5,), 1))
    expected = [prompts.vocabulary.begin, *prompts.answer(int(SEQUENCE[5]))]
    assert sample.labels[sample.labels != IGNORE].tolist() == expected


@pytest.mark.parametrize("template", ["chat", "ids"])
def test_the_log_counts_what_separate_samples_would_take(
    parts: tuple[LanguageModel, Prompts, NextItemJob], template: str
) -> None:
    around = parts if template == "chat" else bare(parts)
    made, opening = samples(around, targets="all"), len(around[1].opening)
    window, ends = (
        (Window(0, 1, 6, (3, 4, 6), 2), (3, 4, 6)) if template == "chat" else (Window(0, 1, 6, (6,), 3), (3, 4, 5, 6))
    )
    alone = [samples(around, targets="last").build(Window(0, 1, t, (t,), t)) for t in ends]
    assert made.tokens_apart(window) == sum(opening + sample.length for sample in alone)


def test_items_left_out_of_a_history_are_other_ones_each_epoch(
    parts: tuple[LanguageModel, Prompts, NextItemJob],
) -> None:
    maker = samples(parts, targets="all", history_dropout=0.5, epochs=2)
    drawn = maker.batches().specs()
    assert len({window.left_out for window in drawn}) > len(drawn) / 2
    assert all(window.start not in window.left_out for window in drawn)
    batches = maker.batches()
    assert sum(len(batches[n]["tokens"]) for n in range(len(batches))) == batches.tokens
    thin = maker.build(Window(0, 1, 6, (3, 6), 2, frozenset({2, 4})))
    assert thin.tokens.tolist() == [token for n in (1, 3, 5) for token in parts[1].entries[SEQUENCE[n]]]
    assert thin.branches[0].attach == len(parts[1].entries[SEQUENCE[1]])


@pytest.mark.parametrize("targets", ["last", "all"])
@pytest.mark.parametrize("loss_on_end", [False, True])
@pytest.mark.parametrize("template", ["chat", "ids", "ids with pauses"])
def test_planned_lengths_are_true(
    parts: tuple[LanguageModel, Prompts, NextItemJob], targets: str, loss_on_end: bool, template: str
) -> None:
    around = parts if template == "chat" else bare(parts, pauses=2 * ("pauses" in template))
    made = samples(around, targets=targets, loss_on_end=loss_on_end, targets_per_history=None)
    batches = made.batches()
    assert sum(len(batches[n]["tokens"]) for n in range(len(batches))) == batches.tokens


def test_a_pause_before_the_answer_is_no_target_of_the_end(parts: tuple[LanguageModel, Prompts, NextItemJob]) -> None:
    around = bare(parts, pauses=3)
    sample = samples(around, targets="last", loss_on_end=True).build(Window(0, 0, 5, (5,), 1))
    assert sample.labels[sample.labels != IGNORE].tolist() == around[1].answer(int(SEQUENCE[5]))
