"""Beam search equals brute force, in every normalisation and under every filter."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pauserec.decoding.beam import Beams, CodeScores, beam_search
from pauserec.decoding.catalogue import Catalogue
from pauserec.errors import SemanticIdError

EXTRA = 3
"""Logits of the vocabulary outside the codebooks, which only the full softmax counts."""


class TableModel:
    """A model whose logits are a fixed random function of the code prefix, remembered per request and beam."""

    def __init__(self, sizes: tuple[int, ...], requests: int, seed: int) -> None:
        self.sizes, self.requests, self.seed = sizes, requests, seed
        self.prefixes: list[list[tuple[int, ...]]] = [[()] for _ in range(requests)]
        self.looked_ahead = 0

    def logits(self, request: int, prefix: tuple[int, ...]) -> tuple[np.ndarray, float]:
        rng = np.random.default_rng([self.seed, request, len(prefix), *prefix])
        codes = rng.normal(size=self.sizes[len(prefix)]) * 2
        return codes, float(np.logaddexp.reduce(np.concatenate([codes, rng.normal(size=EXTRA)])))

    def start(self) -> CodeScores:
        return self._scores()

    def advance(self, parents_BK: torch.Tensor, codes_BK: torch.Tensor) -> CodeScores:
        self.prefixes = [
            [(*self.prefixes[row][p], c) for p, c in zip(parents_BK[row].tolist(), codes_BK[row].tolist(), strict=True)]
            for row in range(self.requests)
        ]
        return self._scores()

    def advance_two(
        self, parents_BK: torch.Tensor, codes_BK: torch.Tensor, owners_BM: torch.Tensor, children_BM: torch.Tensor
    ) -> tuple[CodeScores, CodeScores]:
        self.looked_ahead += 1
        first, beams = self.advance(parents_BK, codes_BK), self.prefixes
        second = self.advance(owners_BM, children_BM)
        self.prefixes = beams
        return first, second

    def _scores(self) -> CodeScores:
        found = [[self.logits(row, prefix) for prefix in beams] for row, beams in enumerate(self.prefixes)]
        logits = torch.tensor(np.array([[codes for codes, _ in beams] for beams in found]))
        return CodeScores(logits, torch.tensor([[norm for _, norm in beams] for beams in found]))


class OneLevelAtATime:
    """The same model, unable to look ahead."""

    def __init__(self, model: TableModel) -> None:
        self.start, self.advance = model.start, model.advance


def by_brute_force(
    model: TableModel, request: int, allowed: set[tuple[int, ...]], beams: int, normalise: str
) -> list[tuple[tuple[int, ...], float]]:
    """Beam search written with sets and dictionaries."""
    alive: list[tuple[tuple[int, ...], float]] = [((), 0.0)] if allowed else []
    for level in range(len(model.sizes)):
        candidates = []
        for prefix, score in alive:
            codes, full = model.logits(request, prefix)
            legal = sorted({ids[level] for ids in allowed if ids[:level] == prefix})
            norm = {
                "full": full,
                "codebook": float(np.logaddexp.reduce(codes)),
                "legal": float(np.logaddexp.reduce(codes[legal])),
            }[normalise]
            candidates += [((*prefix, code), score + codes[code] - norm) for code in legal]
        alive = sorted(candidates, key=lambda entry: -entry[1])[:beams]
    return alive


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[tuple[int, ...], np.ndarray]:
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    everything = list(itertools.product(*(range(size) for size in sizes)))
    codes = draw(st.lists(st.sampled_from(everything), min_size=1, max_size=30, unique=True))
    return sizes, np.array(codes, dtype=np.int64)


@settings(max_examples=1000, deadline=None)
@given(
    catalogues(),
    st.integers(1, 40),
    st.sampled_from(["full", "codebook", "legal"]),
    st.sampled_from(["none", "deny", "allow", "both"]),
    st.integers(0, 10**6),
)
def test_equals_brute_force(
    catalogue: tuple[tuple[int, ...], np.ndarray], beams: int, normalise: str, rule: str, seed: int
) -> None:
    sizes, codes = catalogue
    rng = np.random.default_rng(seed)
    table = Catalogue.build(codes, sizes)
    denied, allowed = ([rng.choice(len(codes) + 2, rng.integers(0, len(codes) + 1)) for _ in range(2)] for _ in "ab")
    only = {
        "none": None,
        "deny": table.filter(deny=denied),
        "allow": table.filter(allow=[allowed[0], None]),
        "both": table.filter(deny=denied, allow=[None, allowed[1]]),
    }[rule]
    model = TableModel(sizes, 2, seed)
    found: Beams = beam_search(model, table, beams, normalise=normalise, only=only)  # type: ignore[arg-type]
    for request in range(2):
        numbers = set(range(len(codes)))
        if rule in ("deny", "both"):
            numbers -= set(denied[request].tolist())
        if (rule, request) in (("allow", 0), ("both", 1)):
            numbers &= set(allowed[request].tolist())
        legal = {tuple(codes[n].tolist()) for n in numbers}
        expected = by_brute_force(model, request, legal, beams, normalise)
        items = [item for item in found.items[request].tolist() if item >= 0]
        assert [tuple(codes[item].tolist()) for item in items] == [ids for ids, _ in expected]
        np.testing.assert_allclose(found.scores[request][: len(items)].numpy(), [s for _, s in expected], atol=1e-4)
        assert (found.items[request][len(items) :] == -1).all()


def test_looking_ahead_happens_and_changes_nothing() -> None:
    sizes, rng = (7, 7, 7, 7), np.random.default_rng(0)
    table = Catalogue.build(unique_codes(rng, sizes, 30), sizes)
    for seed in range(20):
        model = TableModel(sizes, 3, seed)
        once = beam_search(model, table, 8)
        assert model.looked_ahead == 1
        plain = beam_search(OneLevelAtATime(TableModel(sizes, 3, seed)), table, 8)
        assert torch.equal(once.items, plain.items)
        torch.testing.assert_close(once.scores, plain.scores)


class Noise:
    """A model of random logits: what comes out must be legal whatever the scores are."""

    def __init__(self, sizes: tuple[int, ...], requests: int, seed: int) -> None:
        self.sizes, self.shape, self.level = sizes, (requests, 1), 0
        self.generator = torch.Generator().manual_seed(seed)

    def start(self) -> CodeScores:
        logits = torch.randn(*self.shape, self.sizes[self.level], generator=self.generator)
        self.level += 1
        return CodeScores(logits, logits.logsumexp(-1) + 1)

    def advance(self, parents_BK: torch.Tensor, codes_BK: torch.Tensor) -> CodeScores:
        self.shape = tuple(codes_BK.shape)
        return self.start()


def unique_codes(rng: np.random.Generator, sizes: tuple[int, ...], most: int) -> np.ndarray:
    """Up to `most` different code sequences, at least one."""
    wanted = int(rng.integers(1, most + 1))
    return np.unique(np.stack([rng.integers(0, size, wanted) for size in sizes], axis=1), axis=0)


def test_a_hundred_thousand_decodes_give_nothing_illegal_and_nothing_twice() -> None:
    requests = 500
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sizes = tuple(int(size) for size in np.exp2(rng.uniform(0, 9.01, rng.integers(1, 7))).astype(int))
        codes = unique_codes(rng, sizes, most=int(rng.choice([1, 5, 60, 2000])))
        table, n = Catalogue.build(codes, sizes), len(codes)
        denied = [rng.integers(0, n, rng.choice([0, 1, 3 * n])) for _ in range(requests)]  # at times everything
        allowed = [None if rng.random() < 0.5 else rng.integers(0, n, rng.integers(0, 9)) for _ in range(requests)]
        beams = int(rng.integers(1, 25))
        mode = ("full", "codebook", "legal")[seed % 3]
        only = table.filter(deny=denied, allow=allowed)
        items = beam_search(Noise(sizes, requests, seed), table, beams, normalise=mode, only=only).items  # type: ignore[arg-type]
        may = np.ones((requests, n), dtype=bool)
        for row in range(requests):
            if allowed[row] is not None:
                may[row] = np.isin(np.arange(n), allowed[row])
            may[row, denied[row]] = False
        found = items.numpy()
        rows, places = np.nonzero(found >= 0)
        assert may[rows, found[rows, places]].all(), f"catalogue {seed}: an item that may not be offered"
        counts = np.zeros((requests, n), dtype=int)
        np.add.at(counts, (rows, found[rows, places]), 1)
        assert counts.max(initial=0) <= 1, f"catalogue {seed}: an item twice"
        assert (counts.sum(1) <= np.minimum(beams, may.sum(1))).all()
        assert ((counts.sum(1) > 0) == may.any(1)).all(), f"catalogue {seed}: nothing, though something was legal"


def test_an_empty_catalogue_gives_nothing() -> None:
    table = Catalogue.build(np.zeros((1, 2), dtype=np.int64), (2, 2)).without_items(np.array([0]))
    found = beam_search(TableModel((2, 2), 1, 0), table, 3)
    assert found.items.tolist() == [[-1, -1, -1]]


@given(catalogues(), st.integers(0, 10**6))
def test_adding_and_removing_items_equals_building_anew(
    catalogue: tuple[tuple[int, ...], np.ndarray], seed: int
) -> None:
    sizes, codes = catalogue
    numbers = np.random.default_rng(seed).permutation(len(codes))
    part, rest = numbers[: len(codes) // 2], numbers[len(codes) // 2 :]
    whole = Catalogue.build(codes, sizes)
    grown = Catalogue.build(codes[part].reshape(-1, len(sizes)), sizes, part).with_items(codes[rest], rest)
    assert torch.equal(grown.keys, whole.keys)
    assert torch.equal(grown.items, whole.items)
    shrunk = whole.without_items(rest)
    assert torch.equal(shrunk.keys, Catalogue.build(codes[part].reshape(-1, len(sizes)), sizes, part).keys)


def test_shared_ids_are_refused() -> None:
    with pytest.raises(SemanticIdError, match="share"):
        Catalogue.build(np.array([[1, 1], [1, 1]]), (2, 2))


def test_keys_beyond_63_bits_are_refused() -> None:
    with pytest.raises(SemanticIdError, match="63 bits"):
        Catalogue.build(np.zeros((1, 5), dtype=np.int64), (65536,) * 5)


@pytest.mark.parametrize("added", [[1], [5, 5]])
def test_an_item_cannot_stand_in_the_catalogue_twice(added: list[int]) -> None:
    catalogue = Catalogue.build(np.array([[0, 0], [0, 1]]), (2, 2))
    codes = np.array([[1, 0], [1, 1]])[: len(added)]
    with pytest.raises(SemanticIdError, match="stands in the catalogue"):
        catalogue.with_items(codes, np.array(added))
