"""Testing a finished run again, from its files alone."""

from pathlib import Path

from pauserec.baselines.trained import load_baseline
from pauserec.data.dataset import load_dataset
from pauserec.errors import RunError
from pauserec.evaluation.evaluate import Result, Seen
from pauserec.records import Split
from pauserec.results.finished import open_finished
from pauserec.results.ledger import fit_of
from pauserec.results.testing import (
    counted_test,
    finished_checkpoint,
    one_split,
    ranking_of,
    row_test,
)
from pauserec.semantic_ids.codes import SemanticIds


def reevaluate(out: Path, split: Split, seen: Seen | None = None) -> dict[str, Result]:
    """Test everything a finished run trained once more, from its files alone. Raises RunError.

    seen: another rule for seen items than the run's.
    """
    folder = open_finished(out)
    recipe = folder.recipe
    for name in recipe.rows:
        if split == "validation" and fit_of(recipe, name) != "train":
            raise RunError(f"{out}: {name!r} was fitted on the validation events: evaluate the test split")
    ranking = ranking_of(recipe)
    if seen is not None:
        ranking = ranking.model_copy(update={"seen": seen})
    dataset = load_dataset(folder.finished("dataset").path)
    results: dict[str, Result] = {}
    for name in recipe.evaluation.baselines:
        counted = counted_test(recipe, name).fit(dataset)
        results[name] = one_split(name, counted, dataset, ranking, split)
    for settings in recipe.baselines:
        ranker = load_baseline(folder.finished(settings.name).path)
        results[settings.name] = one_split(settings.name, ranker, dataset, ranking, split)
    if recipe.evaluation.models:
        ids = SemanticIds.load(folder.finished("semantic_ids").path)
        for model in recipe.evaluation.models:
            recommender = row_test(recipe, model).recommender(finished_checkpoint(folder, model.stage), ids, dataset)
            results[model.name] = one_split(model.name, recommender, dataset, ranking, split)
    if not results:
        raise RunError(f"{out}: the recipe names nothing to evaluate: add [[evaluation.models]]")
    return results
