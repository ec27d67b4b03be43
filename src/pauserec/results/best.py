"""Which row of a run's table is the best: the one that is served, shown and marked unless another is asked for."""

from collections.abc import Collection, Mapping
from typing import Any

CHOSEN_BY = "ndcg@10"
"""The metric, on the validation split, that the best row is chosen by."""


def best_row(models: Mapping[str, Mapping[str, Any]], among: Collection[str] | None = None) -> str | None:
    """The row with the best validation NDCG@10; of equal ones the first. None where no row was validated.

    models: as in result.json. among: rows to choose from; None takes all. A row that was fitted on validation events has no
    validation and is never chosen.
    """
    scores = {
        name: model["validation"][CHOSEN_BY]
        for name, model in models.items()
        if "validation" in model and (among is None or name in among)
    }
    return max(scores, key=lambda name: scores[name], default=None)


def best_first(models: Mapping[str, Mapping[str, Any]], split: str) -> list[str]:
    """The rows with results on a split, the best on validation first, then by NDCG@10 on the split itself."""
    best = best_row(models)
    rows = [name for name, model in models.items() if model.get(split)]
    return sorted(rows, key=lambda name: (name != best, -models[name][split][CHOSEN_BY]))
