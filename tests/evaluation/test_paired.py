"""Paired tests, coverage, popularity, slices: against hand-made answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauserec.evaluation.paired import coverage, mean_popularity, paired_p_value, slices
from pauserec.records import Dataset, Item


def test_equal_models_do_not_differ_and_clear_winners_do() -> None:
    assert paired_p_value(np.zeros(50)) == 1.0
    assert paired_p_value(np.full(50, 0.1)) == pytest.approx(1 / 10_001)
    noise = np.random.default_rng(0).normal(0, 1, 400)
    assert paired_p_value(noise - noise.mean()) > 0.9


def test_the_p_value_is_that_of_all_sign_assignments() -> None:
    differences = np.array([0.5, 0.4, -0.1, 0.3, 0.2, 0.6, 0.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = (np.abs(signs @ differences[:6]) >= abs(differences.sum()) - 1e-9).mean()
    assert paired_p_value(differences) == pytest.approx(exact, abs=0.01)


@given(st.lists(st.sampled_from([-0.5, -0.1, 0.0, 0.1, 0.5]), min_size=1, max_size=30))
def test_the_p_value_knows_no_direction(values: list[float]) -> None:
    differences = np.array(values)
    found = paired_p_value(differences, draws=200)
    assert 0 < found <= 1
    assert found == paired_p_value(-differences, draws=200)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(1)
    alarms = [paired_p_value(rng.choice([-1.0, 0.0, 1.0], 60), draws=500, seed=n) < 0.05 for n in range(300)]
    assert np.mean(alarms) < 0.09


def test_coverage_and_popularity() -> None:
    counts = np.array([9, 1, 5, 1])
    assert coverage([[0, 1], [0]], items=4, k=2) == 0.5
    assert coverage([[0, 1], [0]], items=4, k=1) == 0.25
    assert mean_popularity([[0]], counts) == pytest.approx(4 / 5)
    assert mean_popularity([[1, 3]], counts) == pytest.approx(1.5 / 5), "equal counts share the middle"
    assert mean_popularity([list(range(4))], counts) == pytest.approx(0.5)
    assert mean_popularity([[]], counts) == 0.0


def board(lengths: list[int], targets: list[int], days: list[tuple[int, int]] | None = None) -> Dataset:
    """Users with so many items before their target; days: of the last event before it, and of the target."""
    sequences = tuple(np.array([4] * length + [target]) for length, target in zip(lengths, targets, strict=True))
    times = days and tuple(np.array([0] * (n - 1) + list(last)) for n, last in zip(lengths, days, strict=True))
    return Dataset(tuple(Item(f"i{n}") for n in range(5)), ("a", "b", "c"), sequences, "", times)


def test_every_user_is_a_head_or_a_tail_user() -> None:
    counts = np.array([9, 1, 5, 0, 2])
    found = slices(board([5, 11, 7], [0, 3, 2]), counts)
    assert found["head items"].tolist() == [True, False, False]
    assert found["tail items"].tolist() == [False, True, True]
    assert found["cold items"].tolist() == [False, True, False]
    assert found["short histories (at most 5)"].tolist() == [True, False, False]
    assert found["long histories (more than 10)"].tolist() == [False, True, False]
    assert "same-day targets" not in found, "without times nobody knows"


def test_a_target_of_the_same_day_is_told_from_a_later_one() -> None:
    found = slices(board([5, 5, 5], [0, 1, 2], [(7, 7), (7, 8), (-1, -1)]), np.ones(5, dtype=np.int64))
    assert found["same-day targets"].tolist() == [True, False, False]
    assert found["later targets"].tolist() == [False, True, False]
    assert found["undated targets"].tolist() == [False, False, True]
    dated = slices(board([5, 5, 5], [0, 1, 2], [(7, 7), (7, 8), (8, 8)]), np.ones(5, dtype=np.int64))
    assert "undated targets" not in dated
