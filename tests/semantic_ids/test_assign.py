"""Whatever the vectors, every item ends with an ID of its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauserec.errors import SemanticIdError
from pauserec.semantic_ids.assign import add_digit, check_capacity, ranks_within_groups, reassign
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import SemanticIds


@st.composite
def crowded(draw):
    """Latents on a coarse grid (so that many collide), random codebooks, and just enough room."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    n = draw(st.integers(1, int(np.prod(sizes))))
    numbers = np.random.default_rng(draw(st.integers(0, 10**6)))
    latents = numbers.integers(0, 3, (n, 2)).astype(np.float32)
    known = [draw(st.integers(1, size)) for size in sizes]  # a level may have codes without a centroid
    books = Codebooks(tuple(numbers.normal(size=(k, 2)).astype(np.float32) for k in known))
    return sizes, latents, books


@settings(deadline=None)
@given(crowded())
def test_reassigned_ids_are_unique_and_the_closest_item_stays(case):
    sizes, latents, books = case
    nearest, errors = books.encode(latents)
    codes = reassign(latents, nearest, errors, books, sizes)
    SemanticIds(codes, sizes)  # refuses shared IDs and codes out of range
    assert np.array_equal(codes, reassign(latents, nearest, errors, books, sizes))
    for row in np.unique(nearest, axis=0):
        group = np.flatnonzero((nearest == row).all(axis=1))
        stays = group[np.lexsort((group, errors[group]))[0]]
        assert np.array_equal(codes[stays], row)


@settings(deadline=None)
@given(crowded())
def test_a_digit_keeps_the_codes_and_counts_from_the_closest(case):
    sizes, latents, books = case
    nearest, errors = books.encode(latents)
    codes, digits = add_digit(nearest, errors)
    SemanticIds(codes, (*sizes, digits))
    assert np.array_equal(codes[:, :-1], nearest)
    for row in np.unique(nearest, axis=0):
        group = np.flatnonzero((nearest == row).all(axis=1))
        assert codes[group[np.lexsort((group, errors[group]))], -1].tolist() == list(range(len(group)))


def test_ranks_go_by_error_then_by_number():
    codes = np.array([[1], [0], [1], [1]])
    assert ranks_within_groups(codes, np.float32([0.5, 9, 0.1, 0.5])).tolist() == [1, 0, 0, 2]


def test_a_moved_item_takes_the_nearest_free_code_of_its_prefix():
    books = Codebooks((np.float32([[0], [100]]), np.float32([[0], [1], [5]])))
    latents = np.float32([[0.1], [0.2], [0.3], [0.4]])
    nearest, errors = books.encode(latents)
    assert reassign(latents, nearest, errors, books, (2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]


def test_identical_items_fill_the_table_to_the_last_code():
    latents = np.zeros((12, 2), dtype=np.float32)
    books = Codebooks((latents[:1], latents[:1]))
    nearest, errors = books.encode(latents)
    codes = reassign(latents, nearest, errors, books, (3, 4))
    assert len(np.unique(codes, axis=0)) == 12


def test_too_many_items_name_the_setting():
    with pytest.raises(SemanticIdError, match=r"quantizer\.codebook_sizes \[2, 3\] has 6 IDs for 7 items"):
        check_capacity(7, (2, 3))


def test_a_ninth_level_is_refused():
    with pytest.raises(SemanticIdError, match=r"quantizer\.collisions"):
        add_digit(np.zeros((2, 8), dtype=np.int64), np.zeros(2, dtype=np.float32))
