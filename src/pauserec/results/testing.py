"""Testing what a run trained, and the files that say how it went: result.json and ranks.parquet."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
import polars as pl
from pydantic import Field

from pauserec.baselines.counts import Cooccurrence
from pauserec.baselines.popularity import Popularity
from pauserec.baselines.trained import load_baseline
from pauserec.config import (
    CooccurrenceSettings,
    DecodingConfig,
    EvaluatedRow,
    Format,
    ModelConfig,
    PromptConfig,
    Recipe,
    Settings,
)
from pauserec.config.settings import LATER
from pauserec.config.stages import prompt_identity
from pauserec.data.dataset import load_dataset
from pauserec.evaluation.evaluate import Result, evaluate
from pauserec.evaluation.ranks import SCHEMA, write_ranks
from pauserec.evaluation.validation import tested_users
from pauserec.llm.recommender import LLMRecommender
from pauserec.llm.weights import whole_checkpoint
from pauserec.records import Dataset, FinalFit, Recommender, Split
from pauserec.results.best import best_row
from pauserec.results.finished import METRICS_FILE, RANKS, RESULT, made_from
from pauserec.results.verdicts import verdicts
from pauserec.runs import processes
from pauserec.runs.files import read_table, write_atomically, write_table
from pauserec.runs.folder import Run
from pauserec.runs.logs import last_trainings, read_log
from pauserec.runs.place import LOG
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds

COST = ("training_seconds", "share", "device_hours", "tokens", "tokens_per_second", "peak_memory_bytes", "mfu")
"""The ledger's keys that the run log repeats at its end."""


class RankingRules(Settings):
    """How any model is ranked."""

    seen: Literal["keep", "drop"]
    top_k: int
    bootstrap: int
    users: int | None = Field(default=None, json_schema_extra=LATER)


class BaselineTest(Settings):
    """What a baseline's row depends on."""

    name: str
    ranking: RankingRules
    final_fit: FinalFit = Field(default="train", json_schema_extra=LATER)


class CountedTest(BaselineTest):
    """What a counting baseline's row depends on."""

    final_fit: FinalFit
    cooccurrence: CooccurrenceSettings | None = Field(default=None, json_schema_extra=LATER)
    """None where the baseline is another."""

    def fit(self, dataset: Dataset) -> Popularity | Cooccurrence:
        """The baseline, counted."""
        if self.cooccurrence is None:
            return Popularity.fit(dataset, final_fit=self.final_fit)
        return Cooccurrence.fit(dataset, self.cooccurrence, final_fit=self.final_fit)


class ModelTest(Settings):
    """What a language model's row depends on, besides its checkpoint."""

    name: str
    ranking: RankingRules
    prompt: PromptConfig
    decoding: DecodingConfig
    precision: Literal["auto", "float32", "bfloat16"]
    fields: tuple[str, ...]
    pauses: int
    history_length: int
    final_fit: FinalFit = Field(default="train", json_schema_extra=LATER)

    @property
    def form(self) -> Format:
        """The form of its prompts."""
        return Format(self.fields, self.pauses, self.history_length)

    def identity(self, *, first_rule: bool = False) -> dict[str, Any]:
        """See Settings.identity: prompts without text show none of it."""
        content = super().identity(first_rule=first_rule)
        return content if first_rule else content | {"prompt": prompt_identity(self.prompt, self.form)}

    def recommender(
        self,
        checkpoint: FinishedStep,
        ids: SemanticIds,
        dataset: Dataset,
        *,
        cache_bytes: int = 0,
        compile: bool = False,
    ) -> LLMRecommender:
        """The checkpoint, ready to rank."""
        return LLMRecommender.load(
            checkpoint.path,
            ids,
            dataset.items,
            model=ModelConfig(precision=self.precision),
            prompt=self.prompt,
            decoding=self.decoding,
            form=self.form,
            cache_bytes=cache_bytes,
            compile=compile,
        )


def ranking_of(recipe: Recipe) -> RankingRules:
    """The recipe's ranking rules."""
    evaluation = recipe.evaluation
    return RankingRules(
        seen=evaluation.seen, top_k=evaluation.top_k, bootstrap=evaluation.bootstrap, users=evaluation.users
    )


def counted_test(recipe: Recipe, name: str) -> CountedTest:
    """What testing a counting baseline of the recipe takes."""
    settings = recipe.evaluation
    return CountedTest(
        name=name,
        ranking=ranking_of(recipe),
        final_fit=settings.final_fit,
        cooccurrence=settings.cooccurrence if name == "co-occurrence" else None,
    )


def row_test(recipe: Recipe, row: EvaluatedRow) -> ModelTest:
    """What testing one model of the recipe takes: the prompt is the one its stage trained with."""
    stages = {stage.name: stage for stage in recipe.stages}
    if recipe.update.run and recipe.stages:  # what an update began from is asked as the stage that goes on from it
        stages["base"] = recipe.stages[0]
    stage = stages.get(row.stage)
    form = stage.form(recipe.prompt) if stage else Format(history_length=recipe.prompt.history_length)
    return ModelTest(
        name=row.name,
        ranking=ranking_of(recipe),
        prompt=recipe.prompt,
        decoding=recipe.decoding,
        precision=recipe.model.precision,
        fields=form.fields,
        pauses=form.pauses if row.pauses is None else row.pauses,
        history_length=form.history_length,
        final_fit=recipe.fitted_on(row.stage),
    )


def finished_checkpoint(folder: Run, stage: str) -> FinishedStep:
    """A finished stage, its files verified, and those of the checkpoint that its weights rest on."""
    step = folder.finished(stage)
    whole = whole_checkpoint(step.path)
    if whole != step.path:
        folder.finished(whole.name)
    return step


def evaluate_counted(
    job: CountedTest, dataset_step: FinishedStep, *, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    """Fit a baseline on the training events and test it on what is held out."""
    dataset = load_dataset(dataset_step.path)
    begin = time.perf_counter()
    recommender = job.fit(dataset)
    seconds = time.perf_counter() - begin
    results = held_out(job, recommender, dataset)
    if processes.is_main():
        _write(job.name, results, dataset, out, {})
    return {"fit_seconds": round(seconds, 3)}


def evaluate_trained(
    job: BaselineTest, trained: FinishedStep, dataset_step: FinishedStep, *, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    """Test a trained baseline on what is held out."""
    dataset = load_dataset(dataset_step.path)
    recommender = load_baseline(trained.path)
    results = held_out(job, recommender, dataset)
    if processes.is_main():
        _write(job.name, results, dataset, out, {})
    return {"fit_seconds": trained.summary["training_seconds"]}


def evaluate_row(
    job: ModelTest,
    checkpoint: FinishedStep,
    dataset_step: FinishedStep,
    ids_step: FinishedStep,
    *,
    out: Path,
    log: Callable[..., None],
) -> None:
    """Test a checkpoint on what is held out."""
    dataset = load_dataset(dataset_step.path)
    recommender = job.recommender(checkpoint, SemanticIds.load(ids_step.path), dataset)
    results = held_out(job, recommender, dataset)
    if processes.is_main():
        _write(job.name, results, dataset, out, recommender.kernels)


def held_out(job: BaselineTest | ModelTest, recommender: Recommender, dataset: Dataset) -> dict[Split, Result]:
    """Results on what the model was not fitted on: the test split, and validation unless that was among it."""
    splits: tuple[Split, ...] = ("validation", "test") if job.final_fit == "train" else ("test",)
    return {split: one_split(job.name, recommender, dataset, job.ranking, split) for split in splits}


def one_split(name: str, recommender: Recommender, dataset: Dataset, ranking: RankingRules, split: Split) -> Result:
    """Result of one recommender on one split."""
    return evaluate(
        recommender,
        dataset,
        split,
        seen=ranking.seen,
        top_k=ranking.top_k,
        bootstrap=ranking.bootstrap,
        users=tested_users(len(dataset.users), ranking.users),
        label=f"{name}: {split}",
    )


def _write(name: str, results: dict[Split, Result], dataset: Dataset, out: Path, kernels: Mapping[str, str]) -> None:
    metrics: dict[str, Any] = {split: result.metrics for split, result in results.items()}
    content: dict[str, Any] = {**metrics, "decoding": {**results["test"].decoding, **kernels}}
    write_atomically(out / METRICS_FILE, orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))
    by_model: dict[str, dict[Split, Result]] = {name: results}
    write_ranks(out / RANKS, by_model, dataset)


def collect(run: Run, tested: Mapping[str, FinishedStep]) -> dict[str, Any]:
    """Put the rows together: writes RUN/ranks.parquet, then RUN/result.json, and gives the latter's content."""
    recipe, steps = run.recipe, run.steps
    models = {name: orjson.loads((step.path / METRICS_FILE).read_bytes()) for name, step in tested.items()}
    decoded = {model.name for model in recipe.evaluation.models}
    for name, model in models.items():
        beams = max(recipe.decoding.beams, recipe.evaluation.top_k) if name in decoded else None
        model["decoding"] = {**model["decoding"], "beams": beams}
    trained = (*recipe.baselines, *recipe.stages)
    stages = {stage.name: {"tokens": 0, "trainable_parameters": 0} | steps[stage.name].summary for stage in trained}
    whole = sum(stage.get("training_seconds", 0.0) for stage in stages.values())
    for stage in stages.values():  # of the training time, all stages together
        stage["share"] = round(stage.get("training_seconds", 0.0) / whole, 4) if whole else 0.0
    run.log("result", event="cost", stages={name: {key: s.get(key) for key in COST} for name, s in stages.items()})
    prepared = steps["dataset"].summary
    data: dict[str, Any] = {
        key: prepared[key]
        for key in ("fingerprint", "users", "items", "interactions", "ties", "left_out", "seen_targets")
        if key in prepared
    }
    if recipe.evaluation.users is not None and recipe.evaluation.users < prepared["users"]:
        data["users_tested"] = recipe.evaluation.users
    fits = [getattr(stage, "final_fit", None) for stage in trained]
    fits += [recipe.evaluation.final_fit] if recipe.evaluation.baselines else []
    log = last_trainings(read_log(run.path / LOG), recipe.steps)
    content = {
        "recipe": recipe.name,
        "model": steps["base"].summary if "base" in steps else None,
        "best": best_row(models),
        "seen": recipe.evaluation.seen,
        "final_fit": sorted({fit for fit in fits if fit} or {"train"}),
        "data": data,
        "models": models,
        "stages": stages,
        "notes": verdicts(recipe, stages, models, log),
        **made_from(run),
    }
    tables = [read_table(step.path / RANKS) for step in tested.values()]
    write_table(run.path / RANKS, pl.concat([pl.DataFrame(schema=SCHEMA), *tables]))
    write_atomically(run.path / RESULT, orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return content
