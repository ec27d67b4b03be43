"""`batch_tokens = "auto"`: as many tokens a batch as the GPU holds, and the learning rate that goes with them."""

import torch

from pauserec.assets import named
from pauserec.config import Recipe
from pauserec.llm.pretrained import shape_and_tokenizer
from pauserec.runs.device import best_device

REFERENCE = 4096
"""Tokens that a learning rate beside "auto" is meant for; and what a CPU takes, which gains nothing by more."""
SHARE, MOST, MULTIPLE = 0.8, 131_072, 1024
"""Of the GPU's memory; and no more tokens than so many, a multiple of so many."""
STATE, PER_TOKEN = 16, 68
"""Bytes: of weight, gradient and moments of a parameter; and of a token's states, for each layer and its width."""


def on_this_machine(recipe: Recipe) -> Recipe:
    """The recipe with a figure for each "auto", which enters recipe.toml and fingerprints.

    The learning rate grows with the root of the batch, as suits Adam (Malladi et al. 2022, arXiv 2205.10287).
    Raises ModelError, AssetError where the model's configuration cannot be had.
    """
    if all(stage.batch_tokens != "auto" for stage in recipe.stages):
        return recipe
    content, tokens = recipe.model_dump(mode="json"), tokens_that_fit(recipe)
    for stage in content["stages"]:
        if stage["batch_tokens"] == "auto":
            rate = stage["learning_rate"] * (tokens / REFERENCE) ** 0.5
            stage |= {"batch_tokens": tokens, "learning_rate": float(f"{rate:.4g}")}
    return Recipe.parse(content)


def tokens_that_fit(recipe: Recipe) -> int:
    """Tokens of a batch that trains the whole of the recipe's model."""
    device = best_device()
    if device.type != "cuda":
        return REFERENCE
    shape, tokenizer = shape_and_tokenizer(recipe.model, named.model_path(recipe.model.name, weights=False))
    memory = torch.cuda.get_device_properties(device).total_memory
    return _fitting(SHARE * memory, parameters_of(shape, len(tokenizer)), shape.num_hidden_layers * shape.hidden_size)


def _fitting(memory: float, parameters: int, width: int) -> int:
    tokens = (memory - STATE * parameters) / (PER_TOKEN * width)
    return max(REFERENCE, min(MOST, int(tokens) // MULTIPLE * MULTIPLE))


def parameters_of(shape: object, vocabulary: int) -> int:
    """Parameters of a model of this configuration, with so many rows in its tables."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    return sum(p.numel() for p in model.parameters())
