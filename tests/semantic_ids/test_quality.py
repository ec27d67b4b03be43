"""The quality report: what its numbers mean."""

import numpy as np
import pytest

from pauserec.semantic_ids.quality import collision_rate, perplexity, purity, report, top_categories


def test_collision_rate_counts_ids_that_are_missing():
    assert collision_rate(np.array([[0, 1], [0, 1], [0, 1], [1, 1]])) == 0.5


def test_perplexity_is_the_number_of_equally_likely_codes():
    assert perplexity(np.array([5, 5, 5, 0])) == pytest.approx(3)
    assert perplexity(np.array([9, 0])) == pytest.approx(1)


def test_purity_per_prefix_length():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
    assert purity(codes, np.array([0, 0, 1, 1])) == [0.75, 1.0]


def test_a_category_that_all_items_share_is_passed_over():
    paths = [("Beauty", "Hair"), ("Beauty", "Skin"), (), ("Beauty", "Hair")]
    assert top_categories(paths).tolist() == [0, 1, -1, 0]
    assert top_categories([("Beauty",)] * 3).tolist() == [0, 0, 0]
    assert top_categories([(), ()]).tolist() == [-1, -1]


def test_the_report():
    nearest = np.array([[0, 0], [0, 0], [1, 0]])
    codes = np.array([[0, 0], [0, 1], [1, 0]])
    result = report(codes, (2, 4), nearest, [("x",), ("x",), ("y",)])
    assert result["collision_rate_before"] == pytest.approx(1 / 3)
    assert result["collision_rate_after"] == 0
    assert result["items_moved"] == 1
    assert result["codes_used"] == [2, 2]
    assert result["prefix_purity"] == [1, 1]


def test_no_categories_no_purity():
    assert report(np.array([[0]]), (1,))["prefix_purity"] is None
