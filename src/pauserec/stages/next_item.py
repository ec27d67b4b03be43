"""Next-item training, shared by plain SFT and implicit-reasoning SFT: samples, validation, and the run of the loop.

With targets = "last" a user is one sample: prompt, suffix, target. With targets = "all" a window of the history is a
trunk, and each next-item target a branch with its own suffix, pauses and SID: one pass, the same losses as separate
samples that start at the same item.
"""

import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pauserec.config import Format, NextItemJob, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.errors import RecipeError
from pauserec.evaluation.validation import validator
from pauserec.llm.model import LanguageModel, check_adapters
from pauserec.llm.prompts import Prompts
from pauserec.llm.recommender import LLMRecommender
from pauserec.llm.vocabulary import Vocabulary
from pauserec.runs.device import best_device
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.cost import with_cost
from pauserec.stages.distill import TaughtObjective, Teaching
from pauserec.stages.kind import Sight, Tokens
from pauserec.stages.next_item_samples import NextItemSamples
from pauserec.stages.objective import Objective, kept_beside, trains_in_bfloat16
from pauserec.training.loop import fit
from pauserec.training.sharding import gathered, is_sharded


def next_item_samples(job: NextItemJob, sight: Sight) -> NextItemSamples:
    """The samples of a stage. Raises RecipeError where a prompt may have more tokens than the model's positions."""
    stage, form = job.stage, job.stage.form(job.prompt)
    prompts = Prompts(sight.tokenizer, sight.vocabulary, sight.ids, sight.dataset.items, job.prompt, form)
    if prompts.longest > sight.positions:
        raise RecipeError(
            f"stage {stage.name!r} may have prompts of {prompts.longest} tokens, but the model is made for {sight.positions}: "
            "lower prompt.history_length or prompt.text_tokens"
        )
    return NextItemSamples(job, prompts, sight.dataset.training_sequences(stage.final_fit))


def _without_pauses(job: NextItemJob, sight: Sight) -> NextItemSamples:
    """The samples of a stage as the model that it starts from knows them."""
    form = Format(history_length=job.stage.form(job.prompt).history_length)
    prompts = Prompts(sight.tokenizer, sight.vocabulary, sight.ids, sight.dataset.items, job.prompt, form)
    return NextItemSamples(job, prompts, sight.dataset.training_sequences(job.stage.final_fit))


def next_item_tokens(job: NextItemJob, sight: Sight) -> Tokens:
    """See StageKind.tokens; targets are counted as if every user had as many as the settings allow."""
    samples, stage, dataset = next_item_samples(job, sight), job.stage, sight.dataset
    many = stage.targets == "all" or stage.loss_on == "history"
    targets = sight.ids.depth * (dataset.interactions if many else len(dataset.users)) * stage.epochs
    return Tokens(samples.batches().tokens, int(targets))


def train_next_item(
    job: NextItemJob,
    model: LanguageModel,
    start: FinishedStep,
    dataset_step: FinishedStep,
    ids: SemanticIds,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Fine-tune the whole model of `start` on next items, keep the best by constrained validation NDCG@10, save it in `out`."""
    stage = job.stage
    model.to(best_device())
    dataset = load_dataset(dataset_step.path)
    sight = Sight(dataset, ids, model.tokenizer, model.vocabulary, model.positions)
    samples = next_item_samples(job, sight)
    distill = getattr(stage, "distill", 0.0)
    teacher = deepcopy(model) if distill else None
    added = range(model.vocabulary.first_sid, model.vocabulary.used)
    if stage.lora is not None:
        check_adapters([stage])
        model.train_rows(added)
        model.add_adapters(stage.lora)
    elif stage.text_rows == "freeze":
        model.train_rows(added, backbone=True)
    bfloat16 = trains_in_bfloat16(job.precision)
    if teacher is None:
        objective = Objective(model, stage.softmax, stage.dropout, settings=stage)
    else:
        objective = TaughtObjective(model, teacher, distill, stage.dropout, settings=stage)
    recommender = LLMRecommender(model, samples.prompts, ids, job.decoding, training=True, autocast=bfloat16)
    validate = validator(
        recommender,
        dataset,
        stage,
        seen=job.seen,
        top_k=job.decoding.beams,
        share=not is_sharded(objective),  # parted layers are gathered in every pass, so all take the same ones
        around=lambda: gathered(objective),
    )
    batches = samples.batches(Teaching(_without_pauses(job, sight)) if distill else lambda chosen, own: {})
    log(event="plan", tokens=batches.tokens, tokens_as_separate_samples=sum(map(samples.tokens_apart, batches.specs())))
    summary = fit(
        objective,
        objective.rows(batches),
        stage,
        out=out,
        save=partial(model.save, start=kept_beside(job.keep, start)),
        log=log,
        bfloat16=bfloat16,
        validate=validate,
        guessing=guessing_loss(stage.softmax, model.vocabulary),
    )
    return with_cost(summary, model, frozen=stage.lora is not None, bfloat16=bfloat16, softmax=stage.softmax)


def guessing_loss(softmax: Literal["full", "codebook"], vocabulary: Vocabulary) -> float:
    """Mean loss of a code where every code that the softmax is over is held equally likely."""
    sizes = [vocabulary.used] * len(vocabulary.codebook_sizes) if softmax == "full" else vocabulary.codebook_sizes
    return float(np.log(sizes).mean())


LEGAL_PAIRS = {"full": ("full", "legal"), "codebook": ("codebook", "legal")}
"""For a loss normalised over the whole vocabulary or over a level's codes: what decoding may normalise over."""


def check_normalisation(recipe: Recipe, before: Recipe | None = None) -> None:
    """Raise RecipeError where a stage is trained by one softmax and decoded by another, which ranks badly in silence.

    before: the recipe that stands in the folder; a pair that it had already is warned of.
    """
    known = {(name, *pair) for name, *pair in _pairs(before)} if before else set()
    for name, softmax, normalise in _pairs(recipe):
        if normalise in LEGAL_PAIRS[softmax]:
            continue
        text = (
            f"stages.{name}.softmax is {softmax!r} and decoding.normalise is {normalise!r}, so scores mean something else "
            f"than what was trained: set decoding.normalise to {' or '.join(LEGAL_PAIRS[softmax])}"
        )
        if (name, softmax, normalise) not in known:
            raise RecipeError(text)
        warnings.warn(text, stacklevel=2)


def _pairs(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Every stage whose loss is a softmax over codes: its name, that softmax, and what decoding normalises over."""
    normalise = recipe.decoding.normalise
    return [(stage.name, stage.code_softmax, normalise) for stage in recipe.stages if stage.code_softmax is not None]
