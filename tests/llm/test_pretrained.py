"""Reading a pretrained model: what cannot be read, and models that tree passes do not suit, are refused by name."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    FalconConfig,
    GraniteConfig,
    MambaConfig,
    PhiConfig,
    PreTrainedConfig,
)

from backbones import CONFIGS
from pauserec.config import ModelConfig
from pauserec.errors import ModelError
from pauserec.llm.pretrained import in_tree_passes, pretrained
from pauserec.llm.vocabulary import Vocabulary

V = 97
SHAPE = {"vocab_size": V, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def set_up(config: PreTrainedConfig) -> None:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    hf.set_attn_implementation("eager")  # other tests left another one in the configurations they share
    if getattr(hf.lm_head, "bias", None) is not None:
        torch.nn.init.normal_(hf.lm_head.bias)
    in_tree_passes("some/model", hf, None, Vocabulary(V - 4, V - 1, V, (V - 2,), (1,)))


@pytest.mark.parametrize("config", CONFIGS)
def test_models_that_tree_passes_suit(config: PreTrainedConfig) -> None:
    set_up(config)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=2), id="bloom: its own attention"),
        pytest.param(FalconConfig(**SHAPE), id="falcon: its own attention"),
        pytest.param(MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2), id="mamba: no attention"),
        pytest.param(
            GraniteConfig(**SHAPE, intermediate_size=32, num_key_value_heads=2, logits_scaling=8.0),
            id="granite: a scale",
        ),
        pytest.param(PhiConfig(**SHAPE, intermediate_size=32), id="phi: a bias"),
    ],
)
def test_models_that_would_be_trained_and_ranked_wrongly_are_refused(config: PreTrainedConfig) -> None:
    with pytest.raises(ModelError, match="some/model does not give the same logits"):
        set_up(config)


def test_a_damaged_model_is_named_in_one_line(tiny_model: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    for content in (None, b"not weights"):
        if content is not None:
            (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="cannot be loaded") as caught:
            pretrained(ModelConfig(name=str(tmp_path)), str(tmp_path))
        assert "\n" not in str(caught.value)
