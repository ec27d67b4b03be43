"""The lean forward gives the states of transformers' own, and leaves alone the models it does not know."""

import copy

import pytest
import torch
from test_tree import CONFIGS, as_tree, make
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config

from pauserec.llm.cache import BranchPass, ExtendPass, TreeCache
from pauserec.llm.fused import FusedBackbone, can_fuse
from pauserec.llm.packed import can_pack

CPU = torch.device("cpu")
KNOWN = [config for config in CONFIGS if isinstance(config.values[0], LlamaConfig | Qwen3Config)]
pytestmark = pytest.mark.skipif(
    not can_pack(torch.zeros(1, 1)), reason="this build of PyTorch lacks oneDNN's operators"
)


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
@torch.inference_mode()
def test_states_equal_those_of_transformers(config: PreTrainedConfig, dtype: torch.dtype, tolerance: float) -> None:
    model = make(config).to(dtype)
    if not can_pack(model.lm_head.weight):
        pytest.skip("this processor has no bfloat16 products")
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
