"""Validation during training: which users, and the numbers that choose the best weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from pauserec.config import ValidatedSettings
from pauserec.evaluation.evaluate import Seen, evaluate
from pauserec.records import Dataset, IntArray, Recommender

METRIC = "validation_ndcg@10"
"""What the best weights are chosen by."""


def validation_users(count: int, settings: ValidatedSettings) -> IntArray:
    """The users, of `count`, that a stage or baseline is validated on."""
    users = np.arange(count)
    wanted = settings.validation_users
    if wanted is None or wanted >= count:
        return users
    return np.sort(np.random.default_rng(settings.seed).choice(users, wanted, replace=False))


def tested_users(count: int, wanted: int | None) -> list[int] | None:
    """The users, of `count`, that every row of a run is tested on; None where it is all of them."""
    if wanted is None or wanted >= count:
        return None
    drawn: list[int] = np.sort(np.random.default_rng(0).choice(count, wanted, replace=False)).tolist()
    return drawn


def validator(
    recommender: Recommender,
    dataset: Dataset,
    settings: ValidatedSettings,
    *,
    seen: Seen,
    top_k: int,
    share: bool = True,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[[], dict[str, float]] | None:
    """A function that ranks the validation users and gives METRIC and Hit@10; None where training sees their targets.

    share: of several processes each ranks its part of the users. around: entered for the length of each validation.
    """
    if settings.final_fit == "train+validation":
        return None
    users = validation_users(len(dataset.users), settings)

    def validate() -> dict[str, float]:
        with around():
            found = evaluate(
                recommender,
                dataset,
                "validation",
                seen=seen,
                top_k=top_k,
                bootstrap=1,
                users=users.tolist(),
                label=f"{settings.name}: validating",
                share=share,
            ).metrics
        return {METRIC: found["ndcg@10"], "validation_hit@10": found["hit@10"]}

    return validate
