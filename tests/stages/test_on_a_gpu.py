"""On a GPU: the default way of training has the gradients of float32 on a CPU, and a step waits for no value."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pauserec.config import ImplicitSftConfig, NextItemJob, PromptConfig, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import Prompts
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item_samples import NextItemSamples
from pauserec.stages.objective import Objective
from pauserec.training.optimizer import adamw

pytestmark = pytest.mark.gpu


class Parts:
    """A model whose heads have a width that GPU kernels take, and the batches of a stage."""

    def __init__(self, run: Path, recipe: Recipe) -> None:
        ids, dataset = SemanticIds.load(run / "semantic_ids"), load_dataset(run / "dataset")
        start = LanguageModel.load(run / "implicit_sft", ids)
        config = copy.deepcopy(start.hf.config)
        config.head_dim = 64
        torch.manual_seed(0)
        self.model = LanguageModel(AutoModelForCausalLM.from_config(config), start.tokenizer, start.vocabulary).train()
        job = recipe.stages[-1].job(recipe)
        assert isinstance(job, NextItemJob)
        stage = {"targets": "all", "softmax": "codebook", "dropout": 0.0, "layer_dropout": 0.0, "batch_tokens": 512}
        self.stage = ImplicitSftConfig.model_validate(job.stage.model_dump() | stage)
        prompts = Prompts(
            start.tokenizer, start.vocabulary, ids, dataset.items, PromptConfig(), self.stage.form(recipe.prompt)
        )
        made = NextItemSamples(job.model_copy(update={"stage": self.stage}), prompts, dataset.training_sequences())
        self.batches = made.batches()

    def objective(self, device: str, **settings: Any) -> tuple[Objective, dict[str, Any]]:
        """The loss on a device, and its first batch there."""
        model = copy.deepcopy(self.model).to(device)
        objective = Objective(model, "codebook", settings=self.stage.model_copy(update=settings))
        batch = dict(objective.rows(self.batches)[0])
        batch.pop("count")
        return objective, {
            key: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
            for key, value in batch.items()
        }


@pytest.fixture
def parts(tiny_run: Path, tiny_recipe: Recipe) -> Iterator[Parts]:
    yield Parts(tiny_run, tiny_recipe)
    torch._dynamo.reset()


@pytest.mark.parametrize("attention", ["documents", "flex"])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_those_of_float32_on_a_cpu(parts: Parts, attention: str, compiled: bool) -> None:
    found = {}
    for device, settings in (
        ("cpu", {"attention": "documents", "compile": False}),
        ("cuda", {"attention": attention, "compile": compiled}),
    ):
        objective, batch = parts.objective(device, **settings)
        objective(**batch).backward()
        found[device] = {n: p.grad.cpu() for n, p in objective.named_parameters() if p.grad is not None}
    assert found["cpu"].keys() == found["cuda"].keys()
    whole = sum(float(grad.square().sum()) for grad in found["cpu"].values())
    apart = sum(float((found["cuda"][name] - grad).square().sum()) for name, grad in found["cpu"].items())
    assert (apart / whole) ** 0.5 < 1e-3, "products of a GPU may be rounded to TF32"


def test_a_step_waits_for_no_value(parts: Parts) -> None:
    objective, batch = parts.objective("cuda")
    optimizer = adamw(objective, parts.stage)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = objective(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
