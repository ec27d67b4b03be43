import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pauserec.evaluation.metrics import METRICS, bootstrap_ci, hit_at, ndcg_at, per_user, summarise, target_ranks
from pauserec.evaluation.ranking import best_items, withhold
from pauserec.records import Ranking

RANKS = np.array([1, 3, 6, 10, 11, 0])


def test_rank_counts_from_one_and_a_miss_is_zero() -> None:
    items = np.array([[4, 2, 7], [4, 2, 7], [4, 2, -1], [5, 5, 4]])
    ranking = Ranking(items, np.zeros(items.shape, dtype=np.float32))
    assert target_ranks(ranking, np.array([4, 7, 9, 5])).tolist() == [1, 3, 0, 1]


def test_metrics_equal_a_hand_computation() -> None:
    assert hit_at(RANKS, 5).tolist() == [1, 1, 0, 0, 0, 0]
    assert hit_at(RANKS, 10).tolist() == [1, 1, 1, 1, 0, 0]
    assert ndcg_at(RANKS, 5) == pytest.approx([1, 0.5, 0, 0, 0, 0])  # 1/log2(2), 1/log2(4)
    assert ndcg_at(RANKS, 10) == pytest.approx([1, 0.5, 0.3562071871, 0.2890648263, 0, 0])  # 1/log2(7), 1/log2(11)
    summary = summarise(RANKS, resamples=10)
    assert [summary[name] for name in METRICS] == pytest.approx([2 / 6, 4 / 6, 1.5 / 6, 2.1452720134 / 6])
    assert summary["users"] == 6


def test_interval_is_seeded_and_holds_the_mean() -> None:
    first, again = summarise(RANKS, 500, seed=1), summarise(RANKS, 500, seed=1)
    assert first == again
    assert first["ci95"] != summarise(RANKS, 500, seed=2)["ci95"]
    for name in METRICS:
        low, high = first["ci95"][name]
        assert low <= first[name] <= high


def test_interval_equals_that_of_resampled_users() -> None:
    ranks = np.random.default_rng(0).integers(0, 21, size=400)
    values = per_user(ranks)
    draws = np.random.default_rng(1).integers(0, 400, size=(4000, 400))
    plain = np.quantile(values[draws].mean(axis=1), [0.025, 0.975], axis=0).T
    assert bootstrap_ci(values, 4000) == pytest.approx(plain, abs=0.006)


def test_interval_of_one_user_is_a_point() -> None:
    assert bootstrap_ci(per_user(np.array([1])), 50).tolist() == [[1, 1]] * 4


def test_no_users_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_ci(np.empty((0, 4)), 10)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_a_better_rank_never_lowers_a_metric(ranks: list[int]) -> None:
    now = np.array(ranks)
    better = np.where(now > 1, now - 1, now)
    assert (per_user(better) >= per_user(now)).all()
    assert ((per_user(now) >= 0) & (per_user(now) <= 1)).all()


# few distinct values, so that ties are the rule
TIED_SCORES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 12)),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0]),
)


@given(TIED_SCORES, st.integers(1, 15))
def test_best_items_equals_a_full_sort_with_ties_by_number(scores: np.ndarray, k: int) -> None:
    ranking = best_items(scores, k)
    for row, items, values in zip(scores, ranking.items, ranking.scores, strict=True):
        expected = [n for n in sorted(range(len(row)), key=lambda n: (-row[n], n)) if row[n] > -np.inf][:k]
        padding = k - len(expected)
        assert items.tolist() == expected + [-1] * padding
        assert values.tolist() == [row[n] for n in expected] + [-np.inf] * padding


def test_withheld_items_are_each_rows_own() -> None:
    scores = np.zeros((3, 4))
    withhold(scores, [np.array([0, 3, 3]), np.array([], dtype=np.int64), np.array([1])], drop_seen=True, offer=None)
    assert np.isneginf(scores).tolist() == [[True, False, False, True], [False] * 4, [False, True, False, False]]
