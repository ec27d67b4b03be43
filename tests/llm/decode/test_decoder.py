"""Decoding with a real model: equal to Hugging Face's beam search, the same cold or behind kept prefixes, always legal."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

import pauserec
from pauserec.config import Format, PromptConfig
from pauserec.data.dataset import load_dataset
from pauserec.decoding.catalogue import Catalogue
from pauserec.llm.decode.decoder import decode
from pauserec.llm.decode.prefixes import PrefixStore
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import MarkedPrompt, Prompts
from pauserec.llm.recommender import LLMRecommender
from pauserec.semantic_ids.codes import SemanticIds

HISTORIES = [np.array(items) for items in ([3, 4, 5], [7], list(range(20, 34)), [39, 0, 1, 2, 3, 4])]


@pytest.fixture(scope="module")
def recommender(tiny_run: Path) -> LLMRecommender:
    return pauserec.load(tiny_run, "pauserec")._model  # type: ignore[return-value]


def prompts_of(recommender: LLMRecommender) -> list[MarkedPrompt]:
    return [recommender.prompts.marked(history) for history in HISTORIES]


def generate(hf: PreTrainedModel, recommender: LLMRecommender, prompt: list[int], beams: int) -> list[list[int]]:
    """Hugging Face's constrained beam search over the catalogue's code sequences, best first."""
    legal: dict[tuple[int, ...], set[int]] = {}
    for codes in recommender.prompts.codes:
        for level in range(len(codes)):
            legal.setdefault(tuple(codes[:level]), set()).add(codes[level])
    found = hf.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=len(recommender.prompts.codes[0]),
        prefix_allowed_tokens_fn=lambda _, ids: sorted(legal[tuple(ids[len(prompt) :].tolist())]),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return found[:, len(prompt) :].tolist()


@torch.inference_mode()
def test_equals_generate_with_a_prefix_callback(recommender: LLMRecommender, tiny_run: Path, tmp_path: Path) -> None:
    LanguageModel.load(tiny_run / "implicit_sft", SemanticIds.load(tiny_run / "semantic_ids")).save(tmp_path)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    used = recommender.model.vocabulary.used
    # rows that only pad the table count in generate's softmax and not in ours: keep them out of its sum
    hf.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits[..., :used])
    found = decode(recommender.model, recommender.catalogue, prompts_of(recommender), 8)
    for history, items in zip(HISTORIES, found.items.tolist(), strict=True):
        expected = generate(hf, recommender, recommender.prompts.prompt(history), 8)
        assert [recommender.prompts.codes[item] for item in items] == expected


@torch.inference_mode()
def test_packed_weights_change_no_ranking(recommender: LLMRecommender, tiny_run: Path) -> None:
    ids = SemanticIds.load(tiny_run / "semantic_ids")
    plain = LanguageModel.load(tiny_run / "implicit_sft", ids).eval()
    assert recommender.model.packed
    assert not plain.packed
    packed, unpacked = (
        decode(model, recommender.catalogue, prompts_of(recommender), 10) for model in (recommender.model, plain)
    )
    assert torch.equal(packed.items, unpacked.items)
    torch.testing.assert_close(packed.scores, unpacked.scores, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_sampling_settings_of_the_model_change_nothing(recommender: LLMRecommender) -> None:
    before = decode(recommender.model, recommender.catalogue, prompts_of(recommender), 8)
    generation = recommender.model.hf.generation_config
    generation.do_sample, generation.temperature, generation.top_k, generation.top_p = True, 5.0, 2, 0.1
    after = decode(recommender.model, recommender.catalogue, prompts_of(recommender), 8)
    assert torch.equal(before.items, after.items)
    assert torch.equal(before.scores, after.scores)


@pytest.mark.parametrize("template", ["chat", "ids"])
@torch.inference_mode()
def test_kept_prefixes_change_no_ranking(recommender: LLMRecommender, tiny_run: Path, template: str) -> None:
    store, made = PrefixStore(10**7), recommender.prompts
    if template == "ids":
        ids, items = SemanticIds.load(tiny_run / "semantic_ids"), load_dataset(tiny_run / "dataset").items
        bare = PromptConfig(template="ids")
        made = Prompts(recommender.model.tokenizer, made.vocabulary, ids, items, bare, Format())
    for shown in (0, 1, 2, 2, 3, 6, 14):  # every history grows from request to request, or asks the same again
        prompts = [made.marked(history[:shown]) for history in HISTORIES]
        cold = decode(recommender.model, recommender.catalogue, prompts, 10)
        warm = decode(recommender.model, recommender.catalogue, prompts, 10, store=store)
        assert torch.equal(cold.items, warm.items)
        torch.testing.assert_close(cold.scores, warm.scores, atol=1e-4, rtol=0)
    assert store.hits > 8


@torch.inference_mode()
def test_a_known_history_runs_its_new_items_only(recommender: LLMRecommender, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    embed = recommender.model.embed
    monkeypatch.setattr(recommender.model, "embed", lambda ids: seen.append(len(ids)) or embed(ids))
    store, prompts = PrefixStore(10**7), recommender.prompts
    for history in (np.array([3, 4]), np.array([3, 4, 5])):
        decode(recommender.model, recommender.catalogue, [prompts.marked(history)], 5, store=store)
    levels = len(recommender.catalogue.sizes)
    assert seen[0] == len(prompts.prompt(np.array([3, 4])))
    assert seen[levels] == len(prompts.entries[5]) + len(prompts.suffix)


def test_the_store_forgets_the_least_recently_used() -> None:
    names = [MarkedPrompt(list(range(n)), (1, n)).names() for n in (2, 3, 4)]
    prefix = torch.zeros(1, 2, 5, 1, 1)
    store = PrefixStore(2 * prefix.nbytes)
    store.keep(names[0], prefix)
    store.keep(names[1], prefix)
    assert store.find(names[0]) is prefix
    store.keep(names[2], prefix)
    assert store.find(names[1]) is None, "it was used longer ago than the first"
    assert store.find(names[0]) is prefix
    assert store.bytes == 2 * prefix.nbytes
    store.keep(names[0], torch.zeros(1, 2, 50, 1, 1))
    assert len(store) == 2, "what alone exceeds the room is not kept, and costs nothing"


@torch.inference_mode()
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_comes_out_is_legal_and_as_much_as_there_is(recommender: LLMRecommender, data: st.DataObject) -> None:
    everything = list(range(40))
    kept = data.draw(st.lists(st.sampled_from(everything), unique=True))
    catalogue = recommender.catalogue.without_items(np.setdiff1d(everything, kept))
    denied = [data.draw(st.lists(st.sampled_from(everything))) for _ in HISTORIES]
    only = catalogue.filter(deny=[np.array(numbers, dtype=np.int64) for numbers in denied])
    beams = data.draw(st.integers(1, 50))
    mode = data.draw(st.sampled_from(["full", "codebook", "legal"]))
    found = decode(recommender.model, catalogue, prompts_of(recommender), beams, normalise=mode, only=only)
    for row, items in enumerate(found.items.tolist()):
        legal = set(kept) - set(denied[row])
        given_items = [item for item in items if item >= 0]
        assert len(given_items) == len(set(given_items)) <= min(beams, len(legal))
        assert set(given_items) <= legal
        if beams >= len(legal):
            assert set(given_items) == legal, "with a beam for every item, none may be lost"


def test_one_item_and_no_item(recommender: LLMRecommender) -> None:
    one = recommender.catalogue.without_items(np.arange(1, 40))
    none: Catalogue = one.without_items(np.array([0]))
    assert decode(recommender.model, one, prompts_of(recommender)[:1], 3).items.tolist() == [[0, -1, -1]]
    assert decode(recommender.model, none, prompts_of(recommender)[:1], 3).items.tolist() == [[-1, -1, -1]]
