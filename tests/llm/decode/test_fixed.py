"""Requests of fixed shape give what the ordinary path gives, and never wait for the device."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoder import prompts_of
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedConfig

import pauserec
from backbones import CONFIGS
from pauserec.decoding.beam import Beams, Normalise
from pauserec.decoding.catalogue import Catalogue, Filter
from pauserec.llm.decode.decoder import decode
from pauserec.llm.decode.fixed import FixedRequest
from pauserec.llm.decode.graphs import Graphs, Replay
from pauserec.llm.decode.prefixes import PrefixStore
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import MarkedPrompt
from pauserec.llm.recommender import LLMRecommender
from pauserec.llm.tree.attention import attend, fold
from pauserec.llm.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def recommender(tiny_run: Path) -> LLMRecommender:
    return pauserec.load(tiny_run, "pauserec")._model  # type: ignore[return-value]


def repeated(request: FixedRequest) -> Replay:
    """In place of a capture, where there is no GPU: the same work, launched operation by operation."""
    return request.run


def same(found: Beams, expected: Beams) -> None:
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("normalise", ["full", "codebook", "legal"])
@pytest.mark.parametrize("beams", [1, 7, 60])
def test_equals_the_ordinary_path(recommender: LLMRecommender, normalise: Normalise, beams: int) -> None:
    graphs, prompts = Graphs(recommender.model, capture=repeated), prompts_of(recommender)
    for some in (prompts, prompts[:1], prompts[1:], prompts):
        expected = decode(recommender.model, recommender.catalogue, some, beams, normalise=normalise)
        same(
            decode(recommender.model, recommender.catalogue, some, beams, normalise=normalise, graphs=graphs), expected
        )
    assert len(graphs) > 0


def test_threads_never_get_each_other_s_answers(recommender: LLMRecommender) -> None:
    """A graph's buffers are shared: without a lock two of three answers were wrong, some of them the other thread's."""
    graphs = Graphs(recommender.model, capture=repeated)

    def scores(prompt: MarkedPrompt) -> list[list[float]]:
        with torch.inference_mode():
            found = decode(recommender.model, recommender.catalogue, [prompt], 20, normalise="full", graphs=graphs)
        return found.scores.tolist()

    one, other = (recommender.prompts.marked(np.array(history)) for history in ([1, 2, 3], [30, 20, 10]))
    expected = [scores(one), scores(other)]
    assert expected[0] != expected[1]
    assert len(graphs) == 1, "both of one shape"
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(scores, [one, other] * 15)) == expected * 15


@torch.inference_mode()
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_filters_change_from_request_to_request(recommender: LLMRecommender, data: st.DataObject) -> None:
    catalogue, prompts = recommender.catalogue, prompts_of(recommender)
    numbers = st.lists(st.integers(0, len(catalogue) - 1), max_size=40).map(np.array)
    graphs = Graphs(recommender.model, capture=repeated, keep=2)
    for _ in range(3):
        deny = data.draw(st.none() | st.lists(numbers, min_size=4, max_size=4))
        allow = data.draw(st.none() | st.lists(st.none() | numbers, min_size=4, max_size=4))
        only = None if deny is None and allow is None else catalogue.filter(deny=deny, allow=allow)
        same(
            decode(recommender.model, catalogue, prompts, 10, only=only, graphs=graphs),
            decode(recommender.model, catalogue, prompts, 10, only=only),
        )


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("sparse", [False, True])
@torch.inference_mode()
def test_other_backbones_and_depths(config: PreTrainedConfig, sparse: bool) -> None:
    torch.manual_seed(0)
    model = made_up(config)
    codes = np.stack(
        np.unravel_index(np.random.default_rng(0).choice(4096, 20 if sparse else 3000, False), (16,) * 3), 1
    )
    catalogue = Catalogue.build(codes, (16, 16, 16))
    prompts = [MarkedPrompt(torch.randint(0, 10, (n,)).tolist(), (n,)) for n in (30, 3, 64, 11, 17)]
    graphs = Graphs(model, capture=repeated)
    same(decode(model, catalogue, prompts, 9, graphs=graphs), decode(model, catalogue, prompts, 9))
    assert bool(graphs._dense) is not sparse, "dense codes have more children than there is room for"
    same(decode(model, catalogue, prompts, 9, graphs=graphs), decode(model, catalogue, prompts, 9))


def made_up(config: PreTrainedConfig) -> LanguageModel:
    """A random model whose tokens from 12 on are the codes of three levels of 16."""
    hf = AutoModelForCausalLM.from_config(config).eval()
    return LanguageModel(hf, None, Vocabulary(10, 60, 61, code_offsets=(12, 28, 44), codebook_sizes=(16, 16, 16)))


class Waits(TorchDispatchMode):
    """Notes operations that would make the host wait for a device, or copy from it: none may stand in a CUDA graph."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "lift_fresh",
        "is_nonzero",
        "masked_select",
        "unique",
        "equal",
        "bincount",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.calls, self.looked_ahead = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = func.__name__.split(".")[0]
        if name in self.NAMES or name.startswith("nonzero") or name.startswith("_unique"):
            self.found.add(name)
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(index is not None and index.dtype == torch.bool for index in indices):
            self.found.add(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def test_nothing_in_a_request_waits_for_the_device(recommender: LLMRecommender) -> None:
    seen: list[Waits] = []

    def capture(request: FixedRequest) -> Replay:
        request.run()  # its buffers exist from here on, as after a graph's warm-up
        with Waits() as mode:
            request.run()
        mode.looked_ahead = request.shape.ahead
        seen.append(mode)
        return request.run

    graphs, catalogue = Graphs(recommender.model, capture=capture), recommender.catalogue
    only: Filter = catalogue.filter(deny=[np.array([1])] * 4, allow=[np.arange(30)] * 4)
    decode(recommender.model, catalogue, prompts_of(recommender), 10, graphs=graphs)
    decode(recommender.model, catalogue, prompts_of(recommender), 10, only=only, graphs=graphs)
    assert {mode.looked_ahead for mode in seen} == {True, False}
    for mode in seen:
        assert mode.calls > 100
        assert not mode.found
    with Waits() as mode:
        decode(recommender.model, catalogue, prompts_of(recommender), 10)
    assert mode.found, "the ordinary path waits, so this test can fail"


@pytest.mark.parametrize("config", CONFIGS)
@torch.inference_mode()
def test_nor_does_any_other_backbone_wait(config: PreTrainedConfig) -> None:
    """Some of them left transformers to look for packed documents in every pass, on the host."""
    model = made_up(config)
    catalogue = Catalogue.build(np.stack(np.unravel_index(np.arange(0, 4096, 200), (16,) * 3), 1), (16, 16, 16))
    found: list[set[str]] = []

    def capture(request: FixedRequest) -> Replay:
        request.run()
        with Waits() as mode:
            request.run()
        found.append(mode.found)
        return request.run

    prompt = MarkedPrompt(list(range(9)), (9,))
    decode(model, catalogue, [prompt], 9, graphs=Graphs(model, capture=capture))
    decode(model.prepare_inference(), catalogue, [prompt], 9, graphs=Graphs(model, capture=capture))
    assert len(found) == 2
    assert found == [set(), set()]


@torch.inference_mode()
def test_what_cannot_be_captured_takes_the_ordinary_path(recommender: LLMRecommender) -> None:
    tried: list[int] = []

    def capture(request: FixedRequest) -> Replay:
        tried.append(request.shape.beams)
        if request.shape.beams == 5:
            raise torch.OutOfMemoryError("no room")
        return request.run

    graphs, prompts = Graphs(recommender.model, capture=capture), prompts_of(recommender)
    for beams, warned in ((5, True), (5, False), (6, False)):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            found = decode(recommender.model, recommender.catalogue, prompts, beams, graphs=graphs)
        assert [str(warning.message) for warning in heard if "no room" in str(warning.message)] != [] or not warned
        same(found, decode(recommender.model, recommender.catalogue, prompts, beams))
    assert tried.count(5) == 1, "tried once"
    assert len(graphs.failed) == 1


@torch.inference_mode()
def test_shapes_kept_have_room_for_so_many_tokens(recommender: LLMRecommender) -> None:
    prompts = prompts_of(recommender)[:1]
    room = -(-len(prompts[0].tokens) // 64) * 64
    graphs = Graphs(recommender.model, capture=repeated, kept_tokens=2 * room)
    graphs._dense = {(id(recommender.catalogue), beams) for beams in (3, 4, 5)}
    for beams in (3, 4, 5):
        decode(recommender.model, recommender.catalogue, prompts, beams, graphs=graphs)
    assert len(graphs) == 2
    tight = Graphs(recommender.model, capture=repeated, kept_tokens=1)
    decode(recommender.model, recommender.catalogue, prompts, 5, graphs=tight)
    assert len(tight) == 1, "the newest stays"


@torch.inference_mode()
def test_the_least_recently_used_shape_is_let_go(recommender: LLMRecommender) -> None:
    captured: list[int] = []

    def capture(request: FixedRequest) -> Replay:
        captured.append(request.shape.beams)
        return request.run

    graphs, prompts = Graphs(recommender.model, capture=capture, keep=2), prompts_of(recommender)
    graphs._dense = {(id(recommender.catalogue), beams) for beams in (3, 4, 5)}  # no second try
    for beams in (3, 4, 3, 5, 3, 4):
        decode(recommender.model, recommender.catalogue, prompts, beams, graphs=graphs)
    assert captured == [3, 4, 5, 4]
    assert len(graphs) == 2


@torch.inference_mode()
def test_large_batches_take_the_ordinary_path(recommender: LLMRecommender) -> None:
    small = Graphs(recommender.model, capture=repeated, most_tokens=100)
    decode(recommender.model, recommender.catalogue, prompts_of(recommender), 5, graphs=small)
    assert len(small) == 0


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_kept_beginnings_are_gone_on_from(recommender: LLMRecommender, data: st.DataObject) -> None:
    """Users come again with more events, in other company: answers are those of whole prompts, run the ordinary way."""
    graphs, store = (
        Graphs(recommender.model, capture=repeated, keep=3),
        PrefixStore(data.draw(st.sampled_from([0, 10**7]))),
    )
    rng = np.random.default_rng(0)
    users = [rng.integers(0, len(recommender.catalogue), size=40) for _ in range(5)]
    for _ in range(4):
        some = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), min_size=1, max_size=4))
        prompts = [recommender.prompts.marked(users[user][:length]) for user, length in some]
        same(
            decode(recommender.model, recommender.catalogue, prompts, 9, graphs=graphs, store=store),
            decode(recommender.model, recommender.catalogue, prompts, 9),
        )


@pytest.mark.parametrize("config", CONFIGS)
@torch.inference_mode()
def test_a_known_user_runs_what_is_new_without_waiting(config: PreTrainedConfig) -> None:
    model, ran, found = made_up(config), [], []
    catalogue = Catalogue.build(np.stack(np.unravel_index(np.arange(0, 4096, 200), (16,) * 3), 1), (16, 16, 16))

    def capture(request: FixedRequest) -> Replay:
        request.run()
        with Waits() as mode:
            request.run()
        ran.append(request.shape.new)
        found.append(mode.found)
        return request.run

    graphs, store = Graphs(model, capture=capture), PrefixStore(10**7)
    tokens = torch.randint(0, 10, (90,)).tolist()
    for length in (40, 60, 90):
        marks = tuple(mark for mark in (4, 35, 55, 85) if mark < length)
        prompt = MarkedPrompt(tokens[:length], marks)
        same(decode(model, catalogue, [prompt], 9, graphs=graphs, store=store), decode(model, catalogue, [prompt], 9))
    assert set(ran) == {None, 32, 64}
    assert not any(found)
    assert store.hits == 2


def test_heads_folded_into_queries_attend_alike() -> None:
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 11, 8), torch.randn(2, 3, 11, 8)
    mask = torch.rand(2, 1, 5, 11) < 0.6
    mask[..., 0] = True
    for seen in (mask, mask[:1]):
        wide = fold(seen, 2, torch.float32)
        assert wide.stride(2) % 8 == 0
        torch.testing.assert_close(attend(q, k, v, 0.3, wide), attend(q, k, v, 0.3, seen), atol=1e-6, rtol=1e-5)


@pytest.mark.gpu
@torch.inference_mode()
def test_captured_requests_equal_the_ordinary_path_on_a_gpu(recommender: LLMRecommender) -> None:
    graphs, prompts = Graphs(recommender.model), prompts_of(recommender)
    for some in (prompts, prompts[:1], prompts[1:], prompts):
        found = decode(recommender.model, recommender.catalogue, some, 10, graphs=graphs)
        expected = decode(recommender.model, recommender.catalogue, some, 10)
        assert [set(row) for row in found.items.tolist()] == [set(row) for row in expected.items.tolist()]
