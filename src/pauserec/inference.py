"""A finished run as a recommender for histories of item ids."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pauserec.baselines.popularity import Popularity
from pauserec.config import EvaluatedModel
from pauserec.data.splits import load_dataset
from pauserec.errors import RecipeError, RunError
from pauserec.records import Dataset, Item, Recommendations, Recommender, Scored
from pauserec.results import model_test, open_finished
from pauserec.semantic_ids.codes import SemanticIds


class TrainedRecommender:
    """Recommends for histories given as lists of item ids, oldest first. Made by `pauserec.load`."""

    def __init__(self, model: Recommender, fallback: Recommender, dataset: Dataset, *, drop_seen: bool) -> None:
        self._model, self._fallback, self._dataset = model, fallback, dataset
        self._drop_seen = drop_seen

    def item(self, item_id: str) -> Item:
        """The catalogue entry of an id. Raises KeyError."""
        return self._dataset.items[self._dataset.number_of[item_id]]

    def recommend(self, histories: Sequence[Sequence[str]], k: int = 10) -> list[Recommendations]:
        """Up to k items for each history, best first.

        Ids that are not in the catalogue are dropped, with one warning that counts them; a history with none left gets
        the most popular items, marked `fallback="popularity"`. Raises RecipeError if k is not positive.
        """
        if k < 1:
            raise RecipeError(f"k is {k}: ask for at least 1 item")
        k_found = min(k, len(self._dataset.items))
        number_of = self._dataset.number_of
        known = [np.array([number_of[i] for i in history if i in number_of], dtype=np.int64) for history in histories]
        unknown = [tuple(i for i in history if i not in number_of) for history in histories]
        lost = Counter(i for ids in unknown for i in ids)
        if lost:
            warnings.warn(
                f"{lost.total()} history entries ({len(lost)} ids) are not in the catalogue and were dropped, "
                f"for example {next(iter(lost))!r}",
                stacklevel=2,
            )
        results: list[Recommendations | None] = [None] * len(histories)
        for model, rows, fallback in (
            (self._model, [n for n, items in enumerate(known) if len(items)], None),
            (self._fallback, [n for n, items in enumerate(known) if not len(items)], "popularity"),
        ):
            if not rows:
                continue
            ranking = model.top([known[row] for row in rows], k_found, drop_seen=self._drop_seen)
            for row, items, scores in zip(rows, ranking.items, ranking.scores, strict=True):
                found = tuple(
                    Scored(self._dataset.items[item].item_id, float(score))
                    for item, score in zip(items.tolist(), scores.tolist(), strict=True)
                    if item >= 0
                )
                results[row] = Recommendations(found, unknown[row], fallback, len(found) < k)
        return [result for result in results if result is not None]


def load(run: str | Path, model: str | None = None) -> TrainedRecommender:
    """Open a finished run folder for recommending. `model` is a row of its table; None takes the last stage's.

    Raises RunError if the folder is no finished run or has no such model.
    """
    folder = open_finished(Path(run))
    recipe = folder.recipe
    models = {entry.name: entry for entry in recipe.evaluation.models}
    if model is not None and model not in models:
        raise RunError(f"{run} has no model {model!r}: choose one of {', '.join(models) or 'none'}")
    if model is None and not recipe.stages:
        raise RunError(f"{run}: its recipe trains no model, so there is nothing to recommend with")
    last = recipe.stages[-1].name if recipe.stages else ""
    chosen = models[model] if model is not None else EvaluatedModel(name=last, stage=last)
    dataset = load_dataset(folder.finished("dataset").path)
    ids = SemanticIds.load(folder.finished("semantic_ids").path)
    recommender = model_test(recipe, chosen).recommender(folder.finished(chosen.stage), ids, dataset)
    return TrainedRecommender(recommender, Popularity.fit(dataset), dataset, drop_seen=recipe.evaluation.seen == "drop")
