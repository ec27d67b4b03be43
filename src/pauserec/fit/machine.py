"""How long things take on this machine, measured for some seconds: steps of the real training, real rankings, embeddings.

The backbone has its real shape and random weights, which cost the same and need no download.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pauserec.assets import named
from pauserec.config import EmbedderConfig, Recipe, Stage
from pauserec.config.stages import NextItemJob
from pauserec.llm.model import LanguageModel, positions_of
from pauserec.llm.pretrained import shape_and_tokenizer
from pauserec.llm.prompts import Prompts
from pauserec.llm.recommender import LLMRecommender
from pauserec.llm.vocabulary import grow_tokenizer
from pauserec.records import Dataset
from pauserec.runs.device import best_device, use_bfloat16
from pauserec.semantic_ids.quantize import stand_in_ids
from pauserec.stages import STAGES
from pauserec.stages.kind import Sight
from pauserec.stages.next_item import next_item_samples
from pauserec.stages.objective import Objective, trains_in_bfloat16
from pauserec.training.optimizer import adamw

STEPS, LONGEST = 4, 6.0
"""Training steps that are timed, fewer where they take longer than so many seconds together."""
RANKED = 128
"""Users that are ranked to learn what a user costs."""
EMBEDDED = 64
"""Texts that are embedded to learn what a text costs."""


@dataclass(frozen=True)
class StagePace:
    """What a next-item stage costs: seconds and number of its optimizer steps an epoch, seconds to rank a user."""

    step_seconds: float
    steps_per_epoch: int
    rank_seconds: float

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch without validation."""
        return self.step_seconds * self.steps_per_epoch


class Machine:
    """Measures what stages of a recipe would cost on these data. Raises ModelError, AssetError where a model is missing."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self._recipe, self._dataset = recipe, dataset
        self.device = best_device()

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """The device, in words."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"{torch.get_num_threads()} CPU threads"

    def pace(self, stage: Stage) -> StagePace:
        """What a next-item stage costs."""
        job = stage.job(self._recipe)
        assert isinstance(job, NextItemJob)
        samples = next_item_samples(job, self._sight)
        batches = samples.batches()
        model = self._model()
        model.train_rows(range(model.vocabulary.first_sid, model.vocabulary.used), backbone=True)
        objective = Objective(model, job.stage.softmax, job.stage.dropout, settings=job.stage)
        step = self._step(
            objective, objective.rows(batches), adamw(objective, job.stage), bfloat16=trains_in_bfloat16(job.precision)
        )
        return StagePace(step, len(batches), self._rank(model, samples.prompts, job))

    def tokens_per_epoch(self, stage: Stage) -> int:
        """Tokens that one epoch of a stage takes."""
        return STAGES[stage.kind].tokens(stage.job(self._recipe), self._sight).tokens

    @property
    def _sight(self) -> Sight:
        shape, tokenizer, ids, vocabulary = self._grown
        return Sight(self._dataset, ids, tokenizer, vocabulary, positions_of(shape))

    @cached_property
    def _grown(self) -> tuple[Any, Any, Any, Any]:
        source = named.model_path(self._recipe.model.name, weights=False)
        shape, tokenizer = shape_and_tokenizer(self._recipe.model, source)
        ids = stand_in_ids(self._recipe.quantizer, len(self._dataset.items))
        vocabulary = grow_tokenizer(tokenizer, ids)
        shape.vocab_size = vocabulary.used
        return shape, tokenizer, ids, vocabulary

    def _model(self) -> LanguageModel:
        from transformers import AutoModelForCausalLM

        shape, tokenizer, _, vocabulary = self._grown
        model = LanguageModel(AutoModelForCausalLM.from_config(shape), tokenizer, vocabulary)
        model.to(self.device)
        return model

    def _step(self, objective: Objective, batches: Any, optimizer: torch.optim.Optimizer, *, bfloat16: bool) -> float:
        objective.train()
        times: list[float] = []
        for number in range(min(STEPS + 1, len(batches))):
            batch = dict(batches[number])
            batch.pop("count")
            moved = {
                k: torch.from_numpy(v).to(self.device) if isinstance(v, np.ndarray) else v for k, v in batch.items()
            }

            def step(moved: dict[str, Any] = moved) -> None:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                    loss = objective(**moved)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            times.append(self._timed(step))
            if sum(times[1:]) > LONGEST:  # the first one may compile
                break
        return float(np.mean(times[1:] or times))

    def _rank(self, model: LanguageModel, prompts: Prompts, job: NextItemJob) -> float:
        if use_bfloat16(self._recipe.model, self.device):
            model.in_precision(torch.bfloat16)
        model.prepare_inference()
        recommender = LLMRecommender(model, prompts, self._grown[2], job.decoding)
        users = np.linspace(0, len(self._dataset.users) - 1, min(RANKED, len(self._dataset.users))).astype(int)
        histories = [self._dataset.sequences[user][:-1] for user in users]
        k = self._recipe.evaluation.top_k

        def rank() -> None:
            recommender.top(histories, k, drop_seen=True)

        rank()
        return self._timed(rank) / len(histories)

    def _timed(self, function: Callable[[], None]) -> float:
        begin = time.perf_counter()
        function()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def embedding_seconds(config: EmbedderConfig, dataset: Dataset) -> float:
    """What embedding the text of every item would take."""
    from pauserec.semantic_ids.embed import item_text
    from pauserec.semantic_ids.sentence_encoder import SentenceEncoder

    texts = sorted({item_text(config, item) for item in dataset.items}, key=len)
    encoder = SentenceEncoder(Path(named.embedder_path(config.name)))
    middle = max(0, len(texts) // 2 - EMBEDDED // 2)
    chosen = texts[middle : middle + EMBEDDED]  # of nearly one length, as they are embedded
    encoder.encode(chosen)
    begin = time.perf_counter()
    encoder.encode(chosen)
    return (time.perf_counter() - begin) / len(chosen) * len(texts)
