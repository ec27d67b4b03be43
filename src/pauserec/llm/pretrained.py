"""Read a pretrained model from a local folder, its first layers if so asked, and see that tree passes suit it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from pauserec.config import ModelConfig
from pauserec.errors import ModelError
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.passes import TreePass
from pauserec.llm.tree.rule import Layout
from pauserec.llm.vocabulary import Vocabulary

TOLERANCE = 1e-3
"""How far logits of one pass may be from those of its documents alone, as a share of the largest."""


def shape_and_tokenizer(config: ModelConfig, source: str) -> tuple[Any, Any]:
    """Configuration of the model's first `config.layers` layers and its fast tokenizer. Raises ModelError."""
    from transformers import AutoConfig, AutoTokenizer

    with _readable(config.name):
        shape = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(f"{config.name} has no fast tokenizer (tokenizer.json): choose a model that has one")
    if config.layers is not None:
        if config.layers > shape.num_hidden_layers:
            raise ModelError(
                f"model.layers is {config.layers}, but {config.name} has {shape.num_hidden_layers}: lower it"
            )
        shape.num_hidden_layers = config.layers
        if getattr(shape, "layer_types", None):
            shape.layer_types = shape.layer_types[: config.layers]
    return shape, tokenizer


def pretrained(config: ModelConfig, source: str) -> tuple[Any, Any]:
    """The Hugging Face model in float32, its first `config.layers` layers, and its fast tokenizer. Raises ModelError."""
    from transformers import AutoModelForCausalLM

    shape, tokenizer = shape_and_tokenizer(config, source)
    with _readable(config.name):
        hf = AutoModelForCausalLM.from_pretrained(
            source,
            config=shape,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    return hf.eval(), tokenizer


def in_tree_passes(name: str, hf: Any, tokenizer: Any, vocabulary: Vocabulary) -> LanguageModel:
    """The model set up for tree passes. Raises ModelError if one gives other logits than the plain model does.

    So it is for models whose attention does not go through transformers' interface (documents would see each other) and
    for heads that are more than a product with a table (a bias, a scale).
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary.first_sid, (12,), generator=generator)
    first, trunk, branch = tokens[:4], tokens[4:9], tokens[9:]
    with torch.no_grad():
        alone = [hf(part[None], use_cache=False).logits[0] for part in (first, trunk, torch.cat([trunk[:3], branch]))]
        expected = torch.cat([alone[0], alone[1], alone[2][3:]])[:, : vocabulary.used]
        model = LanguageModel(hf, tokenizer, vocabulary)
        tree = TreePass(Layout.of([(4, ()), (5, [(3, 3)])]))
        try:
            found = model.logits(model.hidden(tokens, tree))
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise _unsuitable(name, str(error).splitlines()[0]) from None
    apart = float((found - expected).abs().max() / expected.abs().max())
    if not apart < TOLERANCE:
        raise _unsuitable(name, f"logits differ by {apart:.1g} of the largest")
    return model


def _unsuitable(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name} does not give the same logits for several documents in one pass ({reason}): "
        "choose a model of the families Llama, Qwen, Mistral or Gemma 3"
    )


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"model.name {name!r} cannot be loaded ({reason}): check it") from None
