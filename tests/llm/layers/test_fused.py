"""The lean forward gives the states of transformers' own, and leaves alone the models it does not know."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config

import pauserec
from backbones import CONFIGS, as_tree, make
from pauserec.llm.layers import packed
from pauserec.llm.layers.fused import FusedBackbone, can_fuse
from pauserec.llm.layers.packed import can_pack
from pauserec.llm.tree.cache import BranchPass, ExtendPass, TreeCache

CPU = torch.device("cpu")
KNOWN = [config for config in CONFIGS if isinstance(config.values[0], LlamaConfig | Qwen3Config)]


@pytest.mark.parametrize("config", CONFIGS)
def test_it_knows_llama_and_qwen3(config: PreTrainedConfig) -> None:
    assert can_fuse(make(config).base_model) == isinstance(config, LlamaConfig | Qwen3Config)


def test_a_sliding_window_or_another_activation_is_left_to_transformers() -> None:
    shape = CONFIGS[1].values[0].to_dict()  # type: ignore[attr-defined]
    sliding = Qwen3Config(**{**shape, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0})
    sliding.layer_types = ["sliding_attention"] * sliding.num_hidden_layers
    assert not can_fuse(make(sliding).base_model)
    assert not can_fuse(make(Qwen3Config(**{**shape, "hidden_act": "gelu"})).base_model)


@pytest.mark.parametrize("config", KNOWN)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("pack", [True, False])
@torch.inference_mode()
def test_states_equal_those_of_transformers(
    config: PreTrainedConfig, dtype: torch.dtype, tolerance: float, pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(config).to(dtype)
    if pack and not can_pack(model.lm_head.weight):
        pytest.skip("this processor or this build of PyTorch has no packed products of this type")
    monkeypatch.setattr(packed, "can_pack", lambda weight: pack)
    lean, embed, beams = FusedBackbone(copy.deepcopy(model.base_model)), model.get_input_embeddings(), 3
    lengths, prompts = [300, 7, 140], torch.randint(0, 100, (447,))
    caches = [TreeCache(3, 310, 2 * beams, CPU) for _ in range(3)]
    passes = [ExtendPass(cache, lengths) for cache in caches]
    expected = as_tree(model, prompts, passes[0])
    torch.testing.assert_close(lean.hidden(embed(prompts), passes[1]), expected, atol=tolerance, rtol=tolerance)
    last = torch.tensor(lengths).cumsum(0) - 1
    torch.testing.assert_close(lean.last(embed(prompts), passes[2]), expected[last], atol=tolerance, rtol=tolerance)
    more = torch.randint(0, 100, (6,))
    expected = as_tree(model, more, ExtendPass(caches[0], [1, 2, 3]))
    found = lean.last(embed(more), ExtendPass(caches[2], [1, 2, 3]))
    torch.testing.assert_close(found, expected[[0, 2, 5]], atol=tolerance, rtol=tolerance)
    step = torch.randint(0, 100, (3 * beams,))
    expected = as_tree(model, step, BranchPass(caches[0], [], beams))
    found = lean.hidden(embed(step), BranchPass(caches[2], [], beams))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("config", KNOWN)
@torch.inference_mode()
def test_a_compiler_makes_each_half_of_a_layer_once(config: PreTrainedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    compilations = CompileCounter()
    monkeypatch.setattr(packed, "can_pack", lambda weight: False)  # as on a GPU
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compilations))
    torch.compiler.reset()
    model = make(config)
    lean, embed = FusedBackbone(copy.deepcopy(model.base_model), compile=True), model.get_input_embeddings()
    for length in (30, 30, 47, 12):
        prompt = torch.randint(0, 100, (length,))
        expected = as_tree(model, prompt, ExtendPass(TreeCache(1, 60, 6, CPU), [length]))
        found = lean.last(embed(prompt), ExtendPass(TreeCache(1, 60, 6, CPU), [length]))
        torch.testing.assert_close(found, expected[-1:], atol=1e-4, rtol=1e-4)
    # the first half, the second half for a prompt and for one token, and both again for any length
    assert compilations.frame_count == 5, "not once per layer, and not once per length"


def test_a_run_opened_with_the_compiler_recommends_the_same(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [["i1"], ["i2", "i3", "i5"]]
    expected = pauserec.load(tiny_run, "pauserec").recommend(histories, k=5)
    compilations = CompileCounter()
    monkeypatch.setattr(packed, "can_pack", lambda weight: False)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compilations))
    torch.compiler.reset()
    found = pauserec.load(tiny_run, "pauserec", compile=True).recommend(histories, k=5)
    assert compilations.frame_count > 0
    for one, other in zip(found, expected, strict=True):
        assert [scored.item_id for scored in one.items] == [scored.item_id for scored in other.items]
