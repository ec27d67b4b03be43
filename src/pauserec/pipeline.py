"""The recipe, top to bottom: raw logs to a tested recommender. Read `steps` first."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pauserec.assets.named import check_name, local_files, model_path
from pauserec.baselines.trained import train_baseline
from pauserec.config import (
    Baseline,
    BaselineJob,
    ModelConfig,
    Recipe,
    Settings,
    Stage,
    TrainingSettings,
    UpdateJob,
)
from pauserec.data.dataset import check_raw, follows_another_rule, prepare, raw_files
from pauserec.data.left_out import refuse_unreachable
from pauserec.errors import PauserecError, RecipeError, RunError
from pauserec.llm.growth import grow_vocabulary
from pauserec.llm.later import earlier_model
from pauserec.llm.model import check_adapters
from pauserec.llm.pretrained import shape_and_tokenizer
from pauserec.report.content import report_content
from pauserec.report.page import REPORT, write_report
from pauserec.results.finished import RANKS, RESULT, made_from
from pauserec.results.testing import (
    BaselineTest,
    collect,
    counted_test,
    evaluate_counted,
    evaluate_row,
    evaluate_trained,
    ranking_of,
    row_test,
)
from pauserec.results.verdicts import notes_after
from pauserec.runs import processes
from pauserec.runs.budget import seconds_of, share
from pauserec.runs.device import bound_kernel_cache
from pauserec.runs.files import MANIFEST, read_json
from pauserec.runs.fingerprints import Fingerprint
from pauserec.runs.folder import Run
from pauserec.runs.place import LOG, RECIPE, alone, check_place, recipe_put_back
from pauserec.runs.progress import whole_run
from pauserec.runs.steps import FinishedStep, StepFunction
from pauserec.runs.suited import check_machine, check_size
from pauserec.semantic_ids import QUANTIZERS
from pauserec.semantic_ids.embed import embed_items
from pauserec.semantic_ids.later import later_ids, later_vectors
from pauserec.stages import STAGES
from pauserec.stages.batch_size import on_this_machine
from pauserec.stages.next_item import check_normalisation
from pauserec.stages.objective import check_attention
from pauserec.training.trackers import check_trackers

Trained = TypeVar("Trained", bound=TrainingSettings)


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    redo: tuple[str, ...] = (),
    reuse: tuple[str | Path, ...] = (),
    yes: bool = False,
    on_step: Callable[[str, bool], None] = lambda name, done: None,
    on_again: Callable[[str, str], None] = lambda name, why: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run the steps of `recipe` that are not done yet, then test what it trained. Gives the content of result.json.

    redo: steps to do again. reuse: other run folders, whose finished steps are taken over where they are the same.
    yes: run a recipe on data or a machine that it is not made for.
    on_step: told each step's name, and whether it was done already. on_again: told which finished step is done again, and
    why. on_note: told what is wrong with a stage or row that was just done. Raises PauserecError.
    """
    recipe = on_this_machine(recipe)
    out, others = Path(out), tuple(map(Path, reuse))
    bound_kernel_cache()
    check_before(recipe, out, redo, others, yes=yes)
    if follows_another_rule(recipe.data, out / "dataset"):
        redo = (*redo, "dataset")
    with alone(out), recipe_put_back(out):
        before = fingerprints_before(out)
        folder = Run.open(recipe, out, redo)
        folder.yes = yes
        folder.before, folder.reuse, folder.on_again = before, others, on_again
        folder.on_done = lambda name: list(map(on_note, notes_after(folder, name)))
        with whole_run(recipe.steps, recipe.budget.expected) as whole:

            def begins(name: str, done: bool) -> None:
                whole.begin(name, seconds_of(folder.steps))
                on_step(name, done)

            folder.on_step = begins
            tested = steps(folder)
        return processes.broadcast(lambda: _finish(folder, tested))


def steps(folder: Run) -> dict[str, FinishedStep]:
    """Every step of the folder's recipe, each done from what is done before it. Gives the tests, by row of the table."""
    recipe = folder.recipe
    dataset = folder.step("dataset", prepare, recipe.data, files=raw_files(recipe.data))
    if recipe.evaluation.seen == "drop" and (line := refuse_unreachable(dataset.summary)):
        warnings.warn(line, stacklevel=2)
    if not folder.yes and any(not (folder.path / entry.name / MANIFEST).exists() for entry in recipe.trained):
        check_size(recipe, dataset.summary)
    done: dict[str, FinishedStep] = {}
    for name in recipe.evaluation.baselines:
        test = counted_test(recipe, name)
        done[f"test-{name}"] = folder.step(f"test-{name}", evaluate_counted, test, dataset, collective=True)
    for settings in recipe.over_items:
        done |= _baseline(folder, _settled(settings, done), dataset)

    if recipe.makes_ids:
        vectors, ids = _item_ids(folder, dataset, *(done[name] for name in recipe.beside_text))
        for settings in recipe.over_ids:
            done |= _baseline(folder, _settled(settings, done), dataset, ids)

    if recipe.stages and recipe.update.run is not None:
        earlier = _earlier(recipe, recipe.update.stage)
        done["base"] = folder.step("base", earlier_model, _update(recipe), vectors, ids, dataset, files=earlier)
    elif recipe.stages:
        done["base"] = folder.step("base", grow_vocabulary, recipe.model, ids, files=local_files(recipe.model.name))
    for stage in recipe.stages:  # each names what it starts from, and depends on that alone
        starts = [done[name] for name in stage.starts_from]
        train, job = STAGES[stage.kind].train, _timed(folder, _settled(stage, done)).job(recipe)
        done[stage.name] = folder.step(stage.name, train, job, *starts, dataset, ids, collective=True)
        for row in recipe.evaluation.models:
            if (step := f"test-{row.name}") not in done and done.keys() >= set(row.rests_on):
                below = [done[name] for name in row.rests_on]
                row_job = row_test(recipe, row)
                done[step] = folder.step(step, evaluate_row, row_job, *below, dataset, ids, collective=True)
    return {row: done[f"test-{row}"] for row in recipe.rows}


def _settled(entry: Trained, done: Mapping[str, FinishedStep]) -> Trained:
    """A refit with the number of epochs that was best for the strict one it takes them from, once that is done."""
    source = done.get(getattr(entry, "epochs_from", None) or "")
    best = source.summary.get("best_epoch") if source else None
    return entry if best is None else entry.model_copy(update={"epochs": best})


def _timed(folder: Run, entry: Trained) -> Trained:
    """A stage or baseline with its share of the run's time."""
    seconds = share(folder.recipe, folder.steps, entry.name)
    least = min((minutes for minutes in (entry.minutes, seconds and seconds / 60) if minutes), default=None)
    return entry.model_copy(update={"minutes": least})


def make_ids(out: str | Path) -> FinishedStep:
    """Make the semantic IDs of a run's recipe in its folder, for a run to come: its own models may need none.

    Raises PauserecError.
    """
    out = Path(out)
    with alone(out):
        folder = Run.existing(out)
        return _item_ids(folder, folder.finished("dataset"), *map(folder.finished, folder.recipe.beside_text))[1]


def _item_ids(folder: Run, dataset: FinishedStep, *beside: FinishedStep) -> tuple[FinishedStep, FinishedStep]:
    """Embed the items and quantize their vectors. beside: the baseline whose item vectors are joined, if any."""
    recipe = folder.recipe
    if recipe.update.run is not None:
        earlier = _earlier(recipe, "dataset", "vectors", "semantic_ids")
        vectors = folder.step("vectors", later_vectors, _update(recipe), dataset, files=earlier)
        job = _update(recipe)
        return vectors, folder.step("semantic_ids", later_ids, job, vectors, dataset, collective=True, files=earlier)
    files = local_files(recipe.embedder.name)
    vectors = folder.step("vectors", embed_items, recipe.embedder, dataset, *beside, files=files)
    quantize = QUANTIZERS[recipe.quantizer.kind]
    return vectors, folder.step("semantic_ids", quantize, recipe.quantizer, vectors, dataset, collective=True)


def _update(recipe: Recipe) -> UpdateJob:
    return UpdateJob(run=str(recipe.update.run), stage=recipe.update.stage, embedder=recipe.embedder)


def _earlier(recipe: Recipe, *steps: str) -> tuple[Path, ...]:
    """What an update takes from the earlier run, as the manifests of its steps."""
    return tuple(Path(str(recipe.update.run)) / step / MANIFEST for step in steps)


def _baseline(folder: Run, settings: Baseline, dataset: FinishedStep, *ids: FinishedStep) -> dict[str, FinishedStep]:
    """Train and test a baseline."""
    recipe, name = folder.recipe, settings.name
    job = BaselineJob(settings=_timed(folder, settings), seen=recipe.evaluation.seen)
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


def fingerprints_before(out: Path) -> dict[str, Fingerprint]:
    """Every step's fingerprints by the recipe that stands in a folder: by it are its finished steps known again."""
    with suppress(PauserecError):  # none is there yet, or one whose data or models are gone
        folder = _Counting(out, Recipe.load(out / RECIPE))
        steps(folder)
        return folder.found
    return {}


class _Counting(Run):
    """Walks the steps and does nothing but take their fingerprints."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        super().__init__(path, recipe)
        self.found: dict[str, Fingerprint] = {}

    def step(
        self, name: str, function: StepFunction, settings: Settings | None, *inputs: FinishedStep, **_: Any
    ) -> FinishedStep:
        self.found[name] = self.counted(name, settings, inputs)
        return FinishedStep(name, self.path / name, self.found[name].now, {}, counted=self.found[name])


def check_before(
    recipe: Recipe, out: Path, redo: tuple[str, ...], reuse: tuple[Path, ...] = (), *, yes: bool = True
) -> None:
    """Raise PauserecError, before anything is written, for what would stop a run later: it leaves a finished one alone."""
    check_place(out)
    for name in redo:
        if name not in recipe.steps:
            raise RunError(f"--redo {name}: no step of this recipe, which are {', '.join(recipe.steps)}")
    for other in reuse:
        for name in (RECIPE, LOG):
            if not (other / name).exists():
                raise RunError(
                    f"--reuse {other} is no run folder (no {name} in it): give a folder that `pauserec run` wrote"
                )
    known: dict[Path, Recipe] = {}
    for folder in (out, *reuse):
        with suppress(RecipeError):  # what a folder's own recipe names was found when it began, and may be gone by now
            known[folder] = Recipe.load(folder / RECIPE)
    check_normalisation(recipe, known.get(out))
    waiting = _waiting(recipe, known.get(out), out, redo)
    if waiting and not yes:
        check_machine(recipe)
    check_trackers(waiting)
    check_adapters(waiting)
    for stage in recipe.stages:
        if stage in waiting:
            check_attention(stage)
    folders = [Run(out, recipe, frozenset(redo)), *(Run(other, recipe) for other in reuse)]
    if not any(folder.is_done("dataset", recipe.data, (), raw_files(recipe.data)) for folder in folders):
        check_raw(recipe.data)
    if recipe.makes_ids and all(other.embedder.name != recipe.embedder.name for other in known.values()):
        check_name(recipe.embedder.name, "embedder", "embedder.name")
    if recipe.stages and all(other.model != recipe.model for other in known.values()):
        processes.broadcast(lambda: _check_backbone(recipe.model))


def _waiting(recipe: Recipe, before: Recipe | None, out: Path, redo: tuple[str, ...]) -> list[Stage | Baseline]:
    """What is to be trained, as far as can be seen before: a finished run goes on without the libraries that trained it."""
    known = {} if before is None else {each.name: each.identity() for each in (*before.stages, *before.baselines)}
    return [
        each
        for each in recipe.trained
        if each.name in redo or known.get(each.name) != each.identity() or not (out / each.name / MANIFEST).exists()
    ]


def _check_backbone(model: ModelConfig) -> None:
    check_name(model.name, "language model", "model.name")
    shape_and_tokenizer(model, model_path(model.name, weights=False))


def _finish(folder: Run, tested: dict[str, FinishedStep]) -> dict[str, Any]:
    """Write result.json, ranks.parquet and the report, unless they tell of just these steps already."""
    if len(versions := folder.versions()) > 1:
        made = "; ".join(f"{version}: {', '.join(names)}" for version, names in versions.items())
        warnings.warn(f"{folder.path} holds steps of several versions of pauserec ({made})", stacklevel=2)
    if all((folder.path / name).exists() for name in (RESULT, RANKS, REPORT)):
        content = read_json(folder.path / RESULT)
        if content.items() >= made_from(folder).items():
            return content
    (folder.path / REPORT).unlink(missing_ok=True)  # an old report beside new results would look finished
    content = collect(folder, tested)
    write_report(folder.path, report_content(folder, content, tested))
    return content
