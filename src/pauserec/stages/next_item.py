"""Next-item training, shared by plain SFT and implicit-reasoning SFT: samples, validation, and the run of the loop.

With targets = "last" a user is one sample: prompt, suffix, target. With targets = "all" a window of the history is a
trunk, and each next-item target a branch with its own suffix, pauses and SID: one pass, the same losses as separate
samples that start at the same item.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pauserec.config import NextItemJob, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.data.windows import spans
from pauserec.errors import RecipeError
from pauserec.evaluation.validation import validator
from pauserec.llm.model import LanguageModel, check_adapters
from pauserec.llm.prompts import Prompts
from pauserec.llm.recommender import LLMRecommender
from pauserec.llm.tree.samples import Branch, Sample, collate, labelled
from pauserec.records import IntArray
from pauserec.runs.device import best_device
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.cost import with_cost
from pauserec.stages.kind import Sight, Tokens
from pauserec.stages.objective import Objective, trains_in_bfloat16
from pauserec.training.batches import IGNORE, Batches
from pauserec.training.loop import fit
from pauserec.training.sharding import gathered, is_sharded


@dataclass(frozen=True)
class Window:
    """One sample: a user's items[start:stop] as trunk; targets are positions in the user's sequence, start < t <= stop.

    fresh: items from this position on carry loss in the trunk (loss_on = "history"); earlier ones did in another window.
    left_out: positions whose items the trunk does not show.
    """

    user: int
    start: int
    stop: int
    targets: tuple[int, ...]
    fresh: int
    left_out: frozenset[int] = frozenset()

    @property
    def shown(self) -> list[int]:
        """Positions of the trunk's items."""
        return [position for position in range(self.start, self.stop) if position not in self.left_out]


def windows(user: int, length: int, size: int, overlap: float) -> list[Window]:
    """A user's history of `length` events as windows of at most `size` items (see `spans`)."""
    return [
        Window(user, start, stop, tuple(range(first, stop + 1)), first)
        for start, first, stop in spans(length, size, overlap)
    ]


class NextItemSamples:
    """Makes the samples of a stage from training sequences."""

    def __init__(self, job: NextItemJob, prompts: Prompts, sequences: list[IntArray]) -> None:
        self._stage, self.prompts, self._sequences = job.stage, prompts, sequences
        self._trunk_counts = job.stage.loss_on == "history" or (job.stage.targets == "all" and not prompts.suffix)
        self._answer = len(prompts.answer(0)) if job.stage.loss_on_end else len(prompts.codes[0])

    def batches(self) -> Batches[Window]:
        """The plan of the whole stage."""
        stage, opening = self._stage, self.prompts.opening
        return Batches(
            self._windows,
            self.length,
            lambda chosen: collate([self.build(window) for window in chosen], opening),
            epochs=stage.epochs,
            batch_tokens=stage.batch_tokens,
            seed=stage.seed,
            opening=len(opening),
        )

    def _windows(self, epoch: int, rng: np.random.Generator) -> list[Window]:
        size, stage = self.prompts.form.history_length, self._stage
        found = []
        for user, items in enumerate(self._sequences):
            n = len(items)
            if n < 2:
                continue
            if stage.targets == "last":
                start = self.prompts.start(n - 1)
                found.append(self._thinned(Window(user, start, n - 1, (n - 1,), start + 1), rng))
                continue
            for window in windows(user, n, size, stage.window_overlap):
                found.append(self._thinned(replace(window, targets=self._drawn(window.targets, rng)), rng))
        return found

    def _drawn(self, targets: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        """The targets that get a branch this time; where the trunk carries loss always the newest: the trunk ends before it.

        Where nothing stands before a target, its branch would say again what the trunk says.
        """
        most, newest = self._stage.targets_per_history, targets[-1:] if self._trunk_counts else ()
        if not self.prompts.suffix:
            return newest
        if most is None or len(targets) <= most:
            return targets
        others = rng.choice(targets[: len(targets) - len(newest)], most - len(newest), replace=False)
        return (*sorted(others.tolist()), *newest)

    def _thinned(self, window: Window, rng: np.random.Generator) -> Window:
        if not self._stage.history_dropout:
            return window
        later = np.arange(window.start + 1, window.stop)
        left_out = later[rng.random(len(later)) < self._stage.history_dropout]
        return replace(window, left_out=frozenset(left_out.tolist()))

    def length(self, window: Window) -> int:
        """Tokens that `build` makes of a window; the prompts' opening is no part of it."""
        prompts, items = self.prompts, self._sequences[window.user]
        trunk = sum(len(prompts.entries[items[position]]) for position in window.shown)
        return trunk + len(window.targets) * (len(prompts.suffix) + self._answer - 1)

    def tokens_apart(self, window: Window) -> int:
        """Tokens that the same targets would take as samples of their own, each with a whole prompt."""
        prompts, items = self.prompts, self._sequences[window.user]
        lengths = {position: len(prompts.entries[items[position]]) for position in window.shown}
        around = len(prompts.opening) + len(prompts.suffix) + self._answer - 1
        in_trunk = [] if prompts.suffix else [position for position in window.shown if position >= window.fresh]
        targets = (*in_trunk, *window.targets)
        before = [sum(n for position, n in lengths.items() if position < target) for target in targets]
        return sum(around + length for length in before)

    def build(self, window: Window) -> Sample:
        """A window as a sample. With a single target at its end, the target stands in the trunk itself."""
        items, prompts = self._sequences[window.user], self.prompts
        trunk: list[int] = []
        marks: list[bool] = []
        ends = {}
        for position in range(window.start, window.stop):
            if position not in window.left_out:
                entry = prompts.entries[items[position]]
                counts = self._trunk_counts and position >= window.fresh
                trunk += entry
                marks += [counts and prompts.is_code(token) for token in entry]
            ends[position + 1] = len(trunk)
        if window.targets == (window.stop,):
            answer, answer_marks = self._continuation(items[window.stop])
            return Sample(*labelled(trunk + answer, marks + answer_marks))
        labels = np.where([*marks[1:], False], np.asarray([*trunk[1:], 0]), IGNORE)
        branches = [Branch(ends[t], *labelled(*self._continuation(items[t]))) for t in window.targets]
        return Sample(np.asarray(trunk, dtype=np.int64), labels, tuple(branches))

    def _continuation(self, target: int) -> tuple[list[int], list[bool]]:
        suffix, answer = self.prompts.suffix, self.prompts.answer(target)
        if self._stage.loss_on_end:  # on `<|sid_begin|>` too, where that and no pause comes before the answer
            begins = suffix[-1:] == [self.prompts.vocabulary.begin]
            return suffix + answer, [False] * (len(suffix) - begins) + [True] * (begins + len(answer))
        codes = [self.prompts.is_code(token) for token in answer]
        return suffix + answer, [False] * len(suffix) + codes


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


def next_item_tokens(job: NextItemJob, sight: Sight) -> Tokens:
    """See StageKind.tokens; targets are counted as if every user had as many as the settings allow."""
    samples, stage, dataset = next_item_samples(job, sight), job.stage, sight.dataset
    many = stage.targets == "all" or stage.loss_on == "history"
    targets = sight.ids.depth * (dataset.interactions if many else len(dataset.users)) * stage.epochs
    return Tokens(samples.batches().tokens, int(targets))


def train_next_item(
    job: NextItemJob,
    model: LanguageModel,
    dataset_step: FinishedStep,
    ids: SemanticIds,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Fine-tune the whole model on next items, keep the best by constrained validation NDCG@10, save it in `out`."""
    stage = job.stage
    model.to(best_device())
    dataset = load_dataset(dataset_step.path)
    samples = next_item_samples(job, Sight(dataset, ids, model.tokenizer, model.vocabulary, model.positions))
    added = range(model.vocabulary.first_sid, model.vocabulary.used)
    if stage.lora is not None:
        check_adapters([stage])
        model.train_rows(added)
        model.add_adapters(stage.lora)
    elif stage.text_rows == "freeze":
        model.train_rows(added, backbone=True)
    bfloat16 = trains_in_bfloat16(job.precision)
    objective = Objective(model, stage.softmax, stage.dropout, settings=stage)
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
    batches = samples.batches()
    log(event="plan", tokens=batches.tokens, tokens_as_separate_samples=sum(map(samples.tokens_apart, batches.specs())))
    summary = fit(
        objective,
        batches,
        stage,
        out=out,
        save=model.save,
        log=log,
        bfloat16=bfloat16,
        validate=validate,
    )
    return with_cost(summary, model, frozen=stage.lora is not None, bfloat16=bfloat16, softmax=stage.softmax)


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
