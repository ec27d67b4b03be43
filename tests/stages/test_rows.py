"""Rows of one length: what a GPU is given, and that a step on them asks for no value."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pauserec.config import ImplicitSftConfig, NextItemJob, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.flex import FlexPass
from pauserec.llm.tree.rule import visible
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item_samples import NextItemSamples
from pauserec.stages.objective import Objective
from pauserec.stages.rows import MULTIPLE, FixedRows
from pauserec.training.batches import Batches
from pauserec.training.optimizer import adamw

Made = tuple[LanguageModel, ImplicitSftConfig, Batches[Any]]


@pytest.fixture
def made(tiny_run: Path, tiny_recipe: Recipe) -> Made:
    ids, dataset = SemanticIds.load(tiny_run / "semantic_ids"), load_dataset(tiny_run / "dataset")
    model = LanguageModel.load(tiny_run / "implicit_sft", ids).train()
    job = tiny_recipe.stages[-1].job(tiny_recipe)
    assert isinstance(job, NextItemJob)
    stage = {"targets": "all", "softmax": "codebook", "dropout": 0.0, "layer_dropout": 0.0, "batch_tokens": 512}
    config = ImplicitSftConfig.model_validate(job.stage.model_dump() | stage)
    prompts = Prompts(
        model.tokenizer, model.vocabulary, ids, dataset.items, tiny_recipe.prompt, config.form(tiny_recipe.prompt)
    )
    samples = NextItemSamples(job.model_copy(update={"stage": config}), prompts, dataset.training_sequences())
    return model, config, samples.batches()


class Dense(FlexPass):
    """All scores at once, for FlexAttention has no gradient on a CPU."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        seen = visible(self.marks[:, :, None], self.marks[:, None], window)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)


def tensors(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in batch.items()
        if key != "count"
    }


def test_rows_have_the_length_of_the_longest_and_the_same_targets(made: Made) -> None:
    _, _, batches = made
    rows = FixedRows(batches)
    assert rows.size % MULTIPLE == 0
    assert max(len(batches[n]["tokens"]) for n in range(len(batches))) <= rows.size
    for number in range(len(batches)):
        found, plain = rows[number], batches[number]
        assert len(found["tokens"]) == found["layout"].shape[1] == rows.size
        assert found["tokens"][: len(plain["tokens"])].tolist() == plain["tokens"].tolist()
        assert found["places"].tolist() == plain["places"].tolist()


def test_gradients_on_such_rows_are_those_of_documents_in_turn(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, stage, batches = made
    losses = []
    for compiled, given in ((False, tensors(batches[0])), (True, tensors(FixedRows(batches)[0]))):
        objective = Objective(model, "codebook", settings=stage.model_copy(update={"compile": compiled}))
        if compiled:
            monkeypatch.setattr("pauserec.stages.objective.tree_pass", lambda layout, device: Dense(layout))
        losses.append(objective(**given))
    weights = [p for p in model.hf.parameters() if p.requires_grad]
    for one, other in zip(*(torch.autograd.grad(loss, weights) for loss in losses), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asks", [False, True])
def test_a_step_asks_for_no_value(made: Made, monkeypatch: pytest.MonkeyPatch, asks: bool) -> None:
    """On tensors without values, to read one is an error."""
    model, stage, batches = copy.deepcopy(made[0]), made[1], made[2]
    monkeypatch.setattr("pauserec.stages.objective.tree_pass", lambda layout, device: Dense(layout))
    monkeypatch.setattr("pauserec.llm.layers.trained._compiled", lambda half, fixed: half)
    given = tensors(FixedRows(batches)[0])
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        for part in model.modules():
            for own in (part._parameters, part._buffers):
                own.update({name: mode.from_tensor(value) for name, value in own.items() if value is not None})
        given = {key: mode.from_tensor(v) if isinstance(v, Tensor) else v for key, v in given.items()}
        objective = Objective(model, "codebook", settings=stage.model_copy(update={"compile": True}))
        optimizer = adamw(objective, stage)
        loss = objective(**given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        if asks:
            with pytest.raises(RuntimeError):
                loss.item()
