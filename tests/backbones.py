"""Small random backbones of every kind of attention, run as trees and as separate sequences."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from pauserec.llm.tree.flex import FlexPass
from pauserec.llm.tree.passes import Pass, tree_attention
from pauserec.llm.tree.rule import Layout

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "head_dim": 16,
}
CONFIGS = [
    pytest.param(LlamaConfig(**SHAPE), id="llama"),
    pytest.param(Qwen3Config(**SHAPE), id="qwen3"),
    pytest.param(Gemma3TextConfig(**SHAPE, sliding_window=6, sliding_window_pattern=2), id="gemma3-sliding-window"),
]


def make(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def separately(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    model.set_attn_implementation("sdpa")
    states = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    model.set_attn_implementation(tree_attention())
    return states


def flex_pass(layout: Layout) -> FlexPass:
    return FlexPass(layout.marks(torch.device("cpu")))


def as_tree(model: PreTrainedModel, ids: torch.Tensor, tree: Pass) -> torch.Tensor:
    model.set_attn_implementation(tree_attention())
    embedded = model.get_input_embeddings()(ids)[None]
    positions = tree.positions()
    return model.base_model(
        inputs_embeds=embedded, position_ids=positions, use_cache=False, tree=tree
    ).last_hidden_state[0]
