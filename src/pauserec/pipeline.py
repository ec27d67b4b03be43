"""The recipe, top to bottom: raw logs to a tested recommender. Read `steps` first."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pauserec.assets.named import check_name, local_files, model_path
from pauserec.baselines.trained import train_baseline
from pauserec.config import (
    Baseline,
    BaselineJob,
    CorpusJob,
    CptConfig,
    ModelConfig,
    NextItemJob,
    PausePretrainConfig,
    Recipe,
    Stage,
)
from pauserec.data.dataset import check_raw, prepare, raw_files
from pauserec.errors import RecipeError, RunError
from pauserec.llm.growth import grow_vocabulary
from pauserec.llm.pretrained import shape_and_tokenizer
from pauserec.report.content import report_content
from pauserec.report.page import REPORT, write_report
from pauserec.results.finished import RANKS, RESULT, made_from
from pauserec.results.testing import (
    BaselineTest,
    collect,
    counted_test,
    evaluate_counted,
    evaluate_model,
    evaluate_trained,
    model_test,
    ranking_of,
)
from pauserec.runs import processes
from pauserec.runs.files import read_json
from pauserec.runs.folder import FinishedStep, Run
from pauserec.runs.place import RECIPE, alone, check_place, recipe_put_back
from pauserec.semantic_ids import QUANTIZERS
from pauserec.semantic_ids.embed import embed_items
from pauserec.stages import STAGES
from pauserec.stages.objective import check_attention
from pauserec.training.loop import check_trackers


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    redo: tuple[str, ...] = (),
    on_step: Callable[[str, bool], None] = lambda name, done: None,
) -> dict[str, Any]:
    """Run the steps of `recipe` that are not done yet, then test what it trained. Gives the content of result.json.

    redo: steps to do again. on_step: told each step's name, and whether it was done already. Raises PauserecError.
    """
    out = Path(out)
    check_before(recipe, out, redo)
    with alone(out), recipe_put_back(out):
        folder = Run.open(recipe, out, redo)
        folder.on_step = on_step
        tested = steps(folder)
        return processes.broadcast(lambda: _finish(folder, tested))


def steps(folder: Run) -> dict[str, FinishedStep]:
    """Every step of the folder's recipe, each done from what is done before it. Gives the tests, by row of the table."""
    recipe = folder.recipe
    dataset = folder.step("dataset", prepare, recipe.data, files=raw_files(recipe.data))
    done: dict[str, FinishedStep] = {}
    for name in recipe.evaluation.baselines:
        test = counted_test(recipe, name)
        done[f"test-{name}"] = folder.step(f"test-{name}", evaluate_counted, test, dataset, collective=True)
    for settings in recipe.over_items:
        done |= _baseline(folder, settings, dataset)

    if recipe.makes_ids:
        beside = [done[recipe.embedder.baseline]] if recipe.embedder.baseline else []
        embedder = local_files(recipe.embedder.name)
        vectors = folder.step("vectors", embed_items, recipe.embedder, dataset, *beside, files=embedder)
        quantize = QUANTIZERS[recipe.quantizer.kind]
        ids = folder.step("semantic_ids", quantize, recipe.quantizer, vectors, dataset, collective=True)
        for settings in recipe.over_ids:
            done |= _baseline(folder, settings, dataset, ids)

    if recipe.stages:
        done["base"] = folder.step("base", grow_vocabulary, recipe.model, ids, files=local_files(recipe.model.name))
    for stage in recipe.stages:  # each names what it starts from, and depends on that alone
        starts = [done[name] for name in stage.starts_from]
        job = job_of(stage, recipe)
        done[stage.name] = folder.step(stage.name, STAGES[stage.kind], job, *starts, dataset, ids, collective=True)
        for entry in (entry for entry in recipe.evaluation.models if entry.stage == stage.name):
            step, model = f"test-{entry.name}", model_test(recipe, entry)
            done[step] = folder.step(step, evaluate_model, model, done[stage.name], dataset, ids, collective=True)
    return {row: done[f"test-{row}"] for row in recipe.rows}


def _baseline(folder: Run, settings: Baseline, dataset: FinishedStep, *ids: FinishedStep) -> dict[str, FinishedStep]:
    """Train and test a baseline."""
    recipe, name = folder.recipe, settings.name
    job = BaselineJob(settings=settings, seen=recipe.evaluation.seen)
    trained = folder.step(name, train_baseline, job, dataset, *ids, collective=True)
    test = BaselineTest(name=name, ranking=ranking_of(recipe), final_fit=settings.final_fit)
    tested = folder.step(f"test-{name}", evaluate_trained, test, trained, dataset, collective=True)
    return {name: trained, f"test-{name}": tested}


def default_folder(recipe: Recipe) -> Path:
    """runs/NAME. Raises RunError if that holds a run on other data, which going on there would replace."""
    folder = Path("runs") / recipe.name
    with suppress(RecipeError):  # none is there yet, or one that this version cannot read
        theirs, ours = ((d.interactions or d.source) for d in (Recipe.load(folder / RECIPE).data, recipe.data))
        if Path(theirs).expanduser().resolve() != Path(ours).expanduser().resolve():
            raise RunError(f"{folder} holds a run on {theirs}, not on {ours}: give this one its own folder with --out")
    return folder


def check_before(recipe: Recipe, out: Path, redo: tuple[str, ...]) -> None:
    """Raise PauserecError, before anything is written, for what would stop a run later: it leaves a finished one alone."""
    check_place(out)
    for name in redo:
        if name not in recipe.steps:
            raise RunError(f"--redo {name}: no step of this recipe, which are {', '.join(recipe.steps)}")
    check_trackers((*recipe.stages, *recipe.baselines))
    for stage in recipe.stages:
        check_attention(stage)
    if not Run(out, recipe, frozenset(redo)).is_done("dataset", recipe.data, (), raw_files(recipe.data)):
        check_raw(recipe.data)
    before = None
    with suppress(RecipeError):  # what the folder's own recipe names was found when it began, and may be gone by now
        before = Recipe.load(out / RECIPE)
    if recipe.makes_ids and (before is None or before.embedder.name != recipe.embedder.name):
        check_name(recipe.embedder.name, "embedder", "embedder.name")
    if recipe.stages and (before is None or before.model != recipe.model):
        processes.broadcast(lambda: _check_backbone(recipe.model))


def _check_backbone(model: ModelConfig) -> None:
    check_name(model.name, "language model", "model.name")
    shape_and_tokenizer(model, model_path(model.name, weights=False))


def job_of(stage: Stage, recipe: Recipe) -> CorpusJob | NextItemJob:
    """A stage's settings with just those of the recipe's that it depends on."""
    if isinstance(stage, CptConfig | PausePretrainConfig):
        length = recipe.prompt.history_length if stage.corpus == "histories" else None
        return CorpusJob(stage=stage, precision=recipe.model.precision, history_length=length)
    return NextItemJob(
        stage=stage,
        prompt=recipe.prompt,
        decoding=recipe.decoding,
        precision=recipe.model.precision,
        seen=recipe.evaluation.seen,
    )


def _finish(folder: Run, tested: dict[str, FinishedStep]) -> dict[str, Any]:
    """Write result.json, ranks.parquet and the report, unless they tell of just these steps already."""
    if all((folder.path / name).exists() for name in (RESULT, RANKS, REPORT)):
        content = read_json(folder.path / RESULT)
        if content.items() >= made_from(folder).items():
            return content
    (folder.path / REPORT).unlink(missing_ok=True)  # an old report beside new results would look finished
    content = collect(folder, tested)
    write_report(folder.path, report_content(folder, content, tested))
    return content
