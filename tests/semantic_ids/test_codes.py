"""The ID table: unique, written as text in one way, extended without changing anyone, refused when damaged."""

from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauserec.errors import RunError, SemanticIdError
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import HEADER, TABLE, SemanticIds


@st.composite
def tables(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=8)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=20, unique=True))
    return SemanticIds(np.array(rows), sizes)


def example() -> SemanticIds:
    return SemanticIds(np.array([[0, 1], [1, 0], [1, 1]]), (2, 3))


def test_the_text_of_an_id():
    ids = SemanticIds(np.array([[99, 19, 220, 204]]), (256,) * 4)
    assert ids.text(0) == "<|sid_begin|><s_a_99><s_b_19><s_c_220><s_d_204><|sid_end|>"


def test_tokens_stand_level_by_level():
    ids = example()
    assert ids.tokens() == [
        "<|sid_begin|>", "<|sid_end|>", "<s_a_0>", "<s_a_1>", "<s_b_0>", "<s_b_1>", "<s_b_2>",
    ]  # fmt: skip
    assert [ids.tokens()[ids.level_offset(level)] for level in (0, 1)] == ["<s_a_0>", "<s_b_0>"]


@given(tables())
def test_every_item_is_found_again_from_its_text(ids: SemanticIds):
    for item in range(len(ids)):
        (codes,) = ids.parse(ids.text(item))
        assert ids.item_of(codes) == item
        assert set(ids.text(item).replace("><", "> <").split()) <= set(ids.tokens())
    whole = " then ".join(ids.text(item) for item in range(len(ids)))
    assert [ids.item_of(codes) for codes in ids.parse(whole)] == list(range(len(ids)))


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("<s_a_1><s_b_2>", [(1, 2)]),  # brackets are optional
        ("<s_a_0><s_a_1><s_b_0><s_b_1>", [(1, 0)]),
        ("<s_a_1>", []),
        ("<s_b_1><s_a_1>", []),
        ("<s_a_1> <s_b_1>", []),
        ("<s_a_2><s_b_0>", []),  # no such code
        ("<s_a_01><s_b_0>", []),  # no such token
        ("<s_a_١><s_b_0>", []),
        ("<s_a_" + "9" * 10_000 + "><s_b_0>", []),
        ("", []),
    ],
)
def test_parse_takes_complete_ids_only(text, codes):
    assert example().parse(text) == codes


def test_a_sequence_that_is_no_item_is_none():
    assert example().item_of((0, 2)) is None
    assert example().item_of((0,)) is None


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 1], [0, 1]], "share a semantic ID"),
        ([[0, 3]], "item 0: code 3 of level 1"),
        ([[-1, 0]], "item 0: code -1 of level 0"),
        ([[0, 1, 0]], "do not fit the 2 levels"),
    ],
)
def test_a_wrong_table_is_refused(codes, message):
    with pytest.raises(SemanticIdError, match=message):
        SemanticIds(np.array(codes), (2, 3))


def test_codes_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        example().codes[0, 0] = 1


def test_the_fingerprint_follows_the_content():
    assert example().fingerprint == example().fingerprint
    assert example().fingerprint != SemanticIds(example().codes, (2, 4)).fingerprint
    assert example().fingerprint != SemanticIds(example().codes[::-1], (2, 3)).fingerprint


@settings(max_examples=25, deadline=None)
@given(tables())
def test_saved_tables_come_back(tmp_path_factory, ids: SemanticIds):
    folder = tmp_path_factory.mktemp("ids")
    ids.save(folder)
    again = SemanticIds.load(folder)
    assert np.array_equal(again.codes, ids.codes)
    assert (again.sizes, again.fingerprint) == (ids.sizes, ids.fingerprint)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [TABLE, HEADER])
@pytest.mark.parametrize("harm", [_cut, _flip, Path.unlink])
def test_a_harmed_file_is_refused(tmp_path, name, harm):
    example().save(tmp_path)
    harm(tmp_path / name)
    with pytest.raises(RunError, match="--redo"):
        SemanticIds.load(tmp_path)


def test_other_sizes_in_the_header_are_refused(tmp_path):
    example().save(tmp_path)
    header = orjson.loads((tmp_path / HEADER).read_bytes())
    (tmp_path / HEADER).write_bytes(orjson.dumps({**header, "sizes": [2, 4]}))
    with pytest.raises(RunError, match="changed"):
        SemanticIds.load(tmp_path)


def line(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.float32)[:, None]


BOOKS = Codebooks((10 * line(2), line(3)))
"""One-dimensional vectors: code a is the tens, code b the ones."""


def test_a_new_item_gets_its_nearest_id_and_the_next_one_its_neighbour():
    ids = SemanticIds(np.array([[0, 1]]), (2, 3)).extend(np.float32([[12.1], [12.2], [0.8]]), BOOKS)
    assert ids.codes.tolist() == [[0, 1], [1, 2], [1, 1], [0, 0]]


def test_a_full_prefix_sends_new_items_to_the_next_nearest():
    ids = SemanticIds(np.array([[0, 0], [0, 1], [0, 2]]), (2, 3)).extend(np.float32([[1]]), BOOKS)
    assert ids.codes[-1].tolist() == [1, 0]


def test_a_digit_takes_the_lowest_free_number():
    ids = SemanticIds(np.array([[0, 1, 0], [0, 1, 1]]), (2, 3, 4)).extend(np.float32([[1]]), BOOKS)
    assert ids.codes[-1].tolist() == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 20, width=32), max_size=6), st.lists(st.floats(-5, 20, width=32), max_size=6))
def test_extending_changes_nobody_and_fills_up_to_the_last_code(first, then):
    ids = SemanticIds(np.array([[0, 0]]), (2, 3))
    for more in (first, then):
        vectors = np.array(more, dtype=np.float32).reshape(-1, 1)
        if len(ids) + len(more) > 6:
            with pytest.raises(SemanticIdError, match=r"codebook_sizes"):
                ids.extend(vectors, BOOKS)
            return
        larger = ids.extend(vectors, BOOKS)
        assert len(larger) == len(ids) + len(more)
        assert np.array_equal(larger.codes[: len(ids)], ids.codes)
        ids = larger


@pytest.mark.parametrize("vectors", [[[1.0, 2.0]], [1.0], [[float("nan")]]])
def test_vectors_that_do_not_fit_are_refused(vectors):
    with pytest.raises(SemanticIdError, match=r"\[m, 1\]"):
        example().extend(np.float32(vectors), BOOKS)
