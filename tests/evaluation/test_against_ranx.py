"""Metrics agree with ranx, on random rankings."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauserec.evaluation.metrics import METRICS, per_user, target_ranks
from pauserec.records import Ranking

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ranx = pytest.importorskip("ranx")

ITEMS = 15


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), users=st.integers(1, 30))
def test_every_metric_of_every_user(seed: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, ITEMS + 5, users)  # some are never ranked
    lists = np.array([rng.permutation(ITEMS) for _ in range(users)])
    ranks = target_ranks(Ranking(lists, np.zeros(lists.shape, dtype=np.float32)), targets)
    wanted = {f"u{user:02d}": {f"i{target}": 1} for user, target in enumerate(targets)}
    scored = {
        f"u{user:02d}": {f"i{item}": float(ITEMS - place) for place, item in enumerate(row)}
        for user, row in enumerate(lists)
    }
    names = [metric.replace("hit@", "hit_rate@") for metric in METRICS]
    with warnings.catch_warnings():  # of its compiler's, about integer types
        warnings.simplefilter("ignore")
        theirs = ranx.evaluate(ranx.Qrels(wanted), ranx.Run(scored), names, return_mean=False)
    assert per_user(ranks) == pytest.approx(np.stack([theirs[name] for name in names], axis=1))
