"""The GGUF asset, made usable again: the right weights, SmolLM2's own tokenizer, offline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_sets import fetched
from pauserec.assets import named
from pauserec.assets.gguf import convert, hf_name, unpermute
from pauserec.errors import AssetError


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetched("smollm2-135m-q4", lambda: Path(named.model_path("smollm2-135m-q4")))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def test_chat_tokens_are_single_ids(tokenizer):
    assert tokenizer("<|im_start|>user\nHi<|im_end|>").input_ids == [1, 4093, 198, 26843, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert len(tokenizer) == 49152


def test_nothing_is_added_around_a_text(tokenizer):
    assert tokenizer("user").input_ids == [4093]
    assert tokenizer("").input_ids == []


def test_digits_stand_alone(tokenizer):
    assert tokenizer.tokenize("In 1977, 42 films") == ["In", "Ġ", *"1977", ",", "Ġ", *"42", "Ġfilms"]


# Bytes without a token in SmolLM2's own vocabulary; they vanish when encoded. No assigned character but six control
# characters needs one: the others never occur in UTF-8 or lead into planes 4 to 11.
LOST = (4, 6, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100))


def test_only_bytes_that_no_text_needs_have_no_token(folder):
    vocabulary = json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"]
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]  # byte-level BPE shows these as U+0100 and on
    shown = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    assert [byte for byte in range(256) if shown[byte] not in vocabulary] == list(LOST)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example("naïve 日本語 🎬 e\u0301 \u200f עברית\t\r\n  x\x00")
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(tokenizer, text):
    text = "".join(character for character in text if not set(character.encode()) & set(LOST))
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_saved_and_loaded_again_it_splits_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "<|im_start|>naïve 日本語 🎬 12 o'clock\n\n  x<|im_end|>"
    assert again(text).input_ids == tokenizer(text).input_ids


def test_it_still_knows_the_capital_of_france(model, tokenizer):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


def test_english_is_not_surprising(model, tokenizer):
    """Perplexity over all tokens of a few sentences: 16.4, as transformers' own GGUF reader gives; noise gives 49152.

    Pooled, because single short sentences differ widely (6, 12 and 60 here, the same with either reader).
    """
    import torch

    losses = []
    for text in (
        "The capital of France is Paris. It is the most populous city in the country.",
        "Once upon a time there was a little girl who lived in a small village near the forest.",
        "Water boils at a lower temperature in the mountains because the air pressure is lower there.",
    ):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    assert torch.cat(losses).mean().exp() < 40


def test_unpermute_undoes_the_rotary_interleaving():
    heads, width, hidden = 3, 8, 5
    weight = np.arange(heads * width * hidden, dtype=np.float32).reshape(heads * width, hidden)
    # as llama.cpp's converter lays q and k out: the two halves of each head, row by row
    interleaved = weight.reshape(heads, 2, width // 2, hidden).swapaxes(1, 2).reshape(weight.shape)
    assert np.array_equal(unpermute(interleaved, heads), weight)


def test_a_tensor_of_another_architecture_is_refused():
    assert hf_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    with pytest.raises(AssetError, match=r"blk.0.ssm_in.weight"):
        hf_name("blk.0.ssm_in.weight")


@pytest.mark.slow
def test_weights_equal_those_of_an_independent_reader(model, tmp_path):
    """transformers' own GGUF reader as the oracle; equal up to the rounding to float16."""
    import torch
    from transformers import AutoModelForCausalLM

    from pauserec.assets.pins import ASSETS

    (source, _), *_ = ASSETS["smollm2-135m-q4"].sources
    source.bring(tmp_path)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ours = model.state_dict()
    for name, weight in oracle.state_dict().items():
        torch.testing.assert_close(ours[name], weight, rtol=2**-11, atol=1e-7, msg=name)
    convert(tmp_path / "model.gguf", tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size == 269_060_280
