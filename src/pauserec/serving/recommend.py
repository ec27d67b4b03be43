"""A finished run as a recommender for histories of item ids."""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from pauserec.baselines.popularity import Popularity
from pauserec.baselines.trained import load_baseline
from pauserec.config import CheckpointRow
from pauserec.data.dataset import load_dataset
from pauserec.errors import RecipeError, RunError
from pauserec.records import Dataset, FloatArray, IntArray, Item, Offer, Recommendations, Recommender, Scored
from pauserec.results.best import best_row
from pauserec.results.finished import RESULT, open_finished
from pauserec.results.testing import counted_test, finished_checkpoint, row_test
from pauserec.runs.device import bound_kernel_cache
from pauserec.runs.files import read_json
from pauserec.runs.folder import Run
from pauserec.semantic_ids.codes import SemanticIds

BLOCK = 4096
"""Histories whose prompts are held at once."""


class TrainedRecommender:
    """Recommends for histories given as lists of item ids, oldest first. Made by `pauserec.load`."""

    def __init__(
        self,
        model: Recommender,
        fallback: Recommender,
        dataset: Dataset,
        *,
        drop_seen: bool,
        repeats: Literal["first", "keep"] = "keep",
        row: str = "",
    ) -> None:
        self.row = row
        """The row of the run's table that recommends."""
        self._model, self._fallback, self._dataset = model, fallback, dataset
        self._drop_seen, self._repeats = drop_seen, repeats
        members: dict[str, list[int]] = {}
        for number, item in enumerate(dataset.items):
            for category in item.categories:
                members.setdefault(category, []).append(number)
        self._members = {category: np.array(numbers, dtype=np.int64) for category, numbers in members.items()}

    def item(self, item_id: str) -> Item:
        """The catalogue entry of an id. Raises KeyError."""
        return self._dataset.items[self._dataset.number_of[item_id]]

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        allow: Sequence[Sequence[str] | None] | None = None,
        deny: Sequence[Sequence[str]] | None = None,
        category: Sequence[str | None] | None = None,
    ) -> list[Recommendations]:
        """Up to k items for each history, best first.

        allow, deny: per history the ids that alone may be recommended (None: all), and those that never may.
        category: per history the category that every item must be of (None: any).
        Of an item that stands in a history several times the first is shown, if the run read its own logs so. Ids that are
        not in the catalogue are dropped, with one warning that counts them; a history with none left gets the
        most popular items, marked `fallback="popularity"`. Fewer than k legal items: fewer are given, marked. Raises
        RecipeError if k is not positive, a category is unknown, the lists differ in length or hold no lists of texts.
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise RecipeError(f"k is {k}: ask for a whole number of items, at least 1")
        histories = [ids or [] for ids in _lists("histories", histories)]
        allow = None if allow is None else _lists("allow", allow, none_is_all=True)
        deny = None if deny is None else [ids or [] for ids in _lists("deny", deny)]
        offer = self._offer(len(histories), allow, deny, category)
        k_found = min(k, len(self._dataset.items))
        number_of = self._dataset.number_of
        shown = [dict.fromkeys(history) if self._repeats == "first" else history for history in histories]
        known = [np.array([number_of[i] for i in history if i in number_of], dtype=np.int64) for history in shown]
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
            for block in _blocks(rows):
                ranking = model.top(
                    [known[row] for row in block], k_found, drop_seen=self._drop_seen, offer=offer.rows(block)
                )
                for row, items, scores in zip(block, ranking.items, ranking.scores, strict=True):
                    found = self._scored(items, scores)
                    results[row] = Recommendations(found, unknown[row], fallback, len(found) < k)
        return [result for result in results if result is not None]

    def _scored(self, items: IntArray, scores: FloatArray) -> tuple[Scored, ...]:
        pairs = zip(items.tolist(), scores.tolist(), strict=True)
        return tuple(Scored(self._dataset.items[item].item_id, score) for item, score in pairs if item >= 0)

    def _offer(
        self,
        histories: int,
        allow: Sequence[Sequence[str] | None] | None,
        deny: Sequence[Sequence[str]] | None,
        category: Sequence[str | None] | None,
    ) -> Offer:
        """The limits of a request in item numbers; ids that the catalogue lacks are dropped with a warning."""
        for name, lists in (("allow", allow), ("deny", deny), ("category", category)):
            if lists is not None and len(lists) != histories:
                raise RecipeError(f"{name} has {len(lists)} entries for {histories} histories: give one for each")
        number_of = self._dataset.number_of
        for name, lists in (("allow", allow), ("deny", deny)):
            lost = sorted({i for ids in _distinct(lists or ()) for i in ids if i not in number_of})
            if lost:
                warnings.warn(
                    f"{len(lost)} ids of {name} are not in the catalogue and were dropped, for example {lost[0]!r}",
                    stacklevel=3,
                )

        looked_up: dict[int, tuple[Sequence[str], IntArray]] = {}

        def numbers(ids: Sequence[str]) -> IntArray:
            if id(ids) not in looked_up:  # one list may hold for every history
                looked_up[id(ids)] = (
                    ids,
                    np.array(sorted({number_of[i] for i in ids if i in number_of}), dtype=np.int64),
                )
            return looked_up[id(ids)][1]

        both: dict[tuple[int, str], IntArray] = {}
        allowed = [None if ids is None else numbers(ids) for ids in allow or [None] * histories]
        for row, wanted in enumerate(category or ()):
            if wanted is None:
                continue
            if not isinstance(wanted, str):
                raise RecipeError(f"category holds {wanted!r}, but categories are text: write {str(wanted)!r}")
            if wanted not in self._members:
                close = get_close_matches(wanted, self._members, n=3) or sorted(self._members)[:3]
                raise RecipeError(
                    f"no item has the category {wanted!r}: did you mean {', '.join(close) or 'another run'}?"
                )
            before, members = allowed[row], self._members[wanted]
            if before is not None and (id(before), wanted) not in both:
                both[id(before), wanted] = np.intersect1d(before, members)
            allowed[row] = members if before is None else both[id(before), wanted]
        return Offer(allowed, None if deny is None else [numbers(ids) for ids in deny])


def _blocks(rows: Sequence[int]) -> Iterable[Sequence[int]]:
    """The rows in blocks, with a bar where there are several."""
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    return track(blocks, "recommending", console=Console(stderr=True), disable=len(blocks) < 2)


def _distinct(lists: Sequence[Sequence[str] | None]) -> Iterable[Sequence[str]]:
    """The lists, each once however often it stands there."""
    return {id(ids): ids for ids in lists if ids is not None}.values()


def _lists(name: str, given: Iterable[Iterable[str] | None], *, none_is_all: bool = False) -> list[list[str] | None]:
    """Lists of texts, made of whatever can be gone through; the same object gives the same list.

    Raises RecipeError.
    """
    made: dict[int, list[str] | None] = {}
    rows = list(given)  # holds on to them all, so that no two have one id
    for row in rows:
        if id(row) not in made:
            made[id(row)] = _ids(name, row, none_is_all=none_is_all)
    return [made[id(row)] for row in rows]


def _ids(name: str, row: Iterable[str] | None, *, none_is_all: bool) -> list[str] | None:
    if row is None and none_is_all:
        return None
    if isinstance(row, str) or not isinstance(row, Iterable):
        what = "a text" if isinstance(row, str) else repr(row)
        raise RecipeError(f"{name} holds {what} where a list of ids belongs: write [['50', '181']], not ['50', '181']")
    ids = list(row)
    for number in ids:
        if not isinstance(number, str):
            raise RecipeError(f"{name} holds {number!r}, but ids are text: write {str(number)!r}")
    return ids


def load(
    run: str | Path, model: str | None = None, *, cache_bytes: int = 0, compile: bool = False
) -> TrainedRecommender:
    """Open a finished run folder for recommending. `model` is a row of its table; None takes the best on validation.

    cache_bytes: memory for the prompts of histories that were asked for before, the least recently used leaving first; a
    history that has only grown since then costs its new items alone. For a process that goes on serving.
    compile: let torch.compile fuse what lies between the matrix products of a Llama or Qwen3, at a minute's start: for a GPU.
    Raises RunError if the folder is no finished run or has no such model.
    """
    bound_kernel_cache()
    folder = open_finished(Path(run))
    dataset = load_dataset(folder.finished("dataset").path)
    row = model or served_row(folder)
    recommender = _recommender(folder, row, dataset, cache_bytes=cache_bytes, compile=compile)
    drop_seen, repeats = folder.recipe.evaluation.seen == "drop", folder.recipe.data.repeats
    fallback = Popularity.fit(dataset)
    return TrainedRecommender(recommender, fallback, dataset, drop_seen=drop_seen, repeats=repeats, row=row or "")


def served_row(folder: Run) -> str | None:
    """The row that is served where none is named: the best on validation, else a trained one. None where no row was tested."""
    content = read_json(folder.path / RESULT)
    best = best_row(content.get("models", {}))
    recipe = folder.recipe
    rows = [entry.name for entry in recipe.evaluation.models if entry.stage == recipe.last_model]
    return best or next(iter([*rows, *(baseline.name for baseline in reversed(recipe.baselines))]), None)


def _recommender(folder: Run, model: str | None, dataset: Dataset, *, cache_bytes: int, compile: bool) -> Recommender:
    recipe = folder.recipe
    counted, trained = recipe.evaluation.baselines, [settings.name for settings in recipe.baselines]
    if model in trained:
        return load_baseline(folder.finished(str(model)).path)
    if model is not None and model in counted:
        return counted_test(recipe, model).fit(dataset)
    models = {entry.name: entry for entry in recipe.evaluation.models}
    rows = ", ".join([*counted, *trained, *models]) or "none"
    if model is not None and model not in models:
        raise RunError(f"{folder.path} has no model {model!r}: choose one of {rows}")
    if model is None and not recipe.stages:
        raise RunError(f"{folder.path}: its recipe trains no model: choose a row of its table with --model ({rows})")
    last = recipe.last_model
    chosen = models[model] if model is not None else CheckpointRow(name=last, stage=last)
    ids = SemanticIds.load(folder.finished("semantic_ids").path)
    checkpoint = finished_checkpoint(folder, chosen.stage)
    return row_test(recipe, chosen).recommender(checkpoint, ids, dataset, cache_bytes=cache_bytes, compile=compile)
