"""Writing before naming an item: equal to one sequence at a time by hand, whatever the others in the batch do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pauserec
from pauserec.llm.decode.decoder import decode
from pauserec.llm.decode.prefill import prefill
from pauserec.llm.decode.rationale import Rationales
from pauserec.llm.prompts import MarkedPrompt
from pauserec.llm.recommender import LLMRecommender
from pauserec.llm.tree.cache import TreeCache
from pauserec.llm.tree.passes import TreePass
from pauserec.llm.tree.rule import Layout

HISTORIES = [np.array(items) for items in ([3, 4, 5], [7], list(range(20, 34)))]


@pytest.fixture(scope="module")
def recommender(tiny_run: Path) -> LLMRecommender:
    return pauserec.load(tiny_run, "pauserec")._model  # type: ignore[return-value]


@pytest.fixture(scope="module")
def prompts(recommender: LLMRecommender) -> list[MarkedPrompt]:
    return [recommender.prompts.marked(history) for history in HISTORIES]


def by_hand(recommender: LLMRecommender, prompt: list[int], steps: int) -> list[int]:
    """Greedy text, every step a whole pass."""
    tokens = list(prompt)
    for _ in range(steps):
        states = recommender.model.hidden(torch.tensor(tokens), TreePass(Layout.of_trunks([len(tokens)])))
        tokens.append(int(recommender.model.logits(states[-1]).argmax()))
    return tokens[len(prompt) :]


def write(recommender: LLMRecommender, prompts: list[MarkedPrompt], how: Rationales) -> list[list[int]]:
    cache = TreeCache(len(prompts), max(len(p.tokens) for p in prompts) + how.room, 0, torch.device("cpu"))
    return how.write(recommender.model, cache, prefill(recommender.model, cache, prompts, None)).texts


@torch.inference_mode()
def test_greedy_text_and_codes_equal_separate_passes(recommender: LLMRecommender, prompts: list[MarkedPrompt]) -> None:
    begin = recommender.model.vocabulary.begin
    how = Rationales(close=(11, 12), after=(13, begin), end=(-1,), limit=6)
    expected = [by_hand(recommender, prompt.tokens, 6) for prompt in prompts]
    assert write(recommender, prompts, how) == expected
    whole = [
        MarkedPrompt([*prompt.tokens, *text, 11, 12, 13, begin], (1, 2))
        for prompt, text in zip(prompts, expected, strict=True)
    ]
    found = decode(recommender.model, recommender.catalogue, prompts, 10, rationales=how)
    one_by_one = decode(recommender.model, recommender.catalogue, whole, 10)
    assert torch.equal(found.items, one_by_one.items)
    torch.testing.assert_close(found.scores, one_by_one.scores, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("rule", ["close", "end"])
def test_a_text_that_closes_itself_stops_there(
    recommender: LLMRecommender, prompts: list[MarkedPrompt], rule: str
) -> None:
    begin, expected = recommender.model.vocabulary.begin, by_hand(recommender, prompts[0].tokens, 6)
    stop = (expected[3],)
    first = expected.index(stop[0])
    how = Rationales(
        close=stop if rule == "close" else (11,), after=(begin,), end=stop if rule == "end" else (-1,), limit=6
    )
    assert write(recommender, prompts[:1], how) == [expected[:first]]
    closed = MarkedPrompt([*prompts[0].tokens, *expected[:first], *how.close, begin], (1, 2))
    found = decode(recommender.model, recommender.catalogue, prompts, 10, rationales=how)
    alone = decode(recommender.model, recommender.catalogue, [closed], 10)
    assert torch.equal(found.items[0], alone.items[0])


@torch.inference_mode()
def test_drawn_texts_are_repeatable(recommender: LLMRecommender, prompts: list[MarkedPrompt]) -> None:
    how = Rationales(close=(11,), after=(13,), end=(-1,), limit=8, temperature=5.0)
    first = write(recommender, prompts, how)
    assert first == write(recommender, prompts, how)
    assert first != write(recommender, prompts, replace(how, seed=1))


def test_a_prompt_with_a_rationale_ends_inside_the_think_block(recommender: LLMRecommender) -> None:
    from pauserec.llm.prompts import Prompts

    prompts = recommender.prompts
    writing = Prompts.__new__(Prompts)
    writing.__dict__ |= prompts.__dict__
    writing.form = replace(prompts.form, rationale=32, pauses=0)
    suffix, how = writing._suffix(0), Rationales.of(writing)
    assert how is not None
    assert how.limit == 32
    assert [*suffix, *how.close, *how.after] == replace_pauses(prompts)
    assert Rationales.of(prompts) is None


def replace_pauses(prompts: object) -> list[int]:
    return prompts._suffix(0)  # type: ignore[attr-defined]
