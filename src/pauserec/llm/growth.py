"""The run's "base" step: the pretrained model with rows for the SID tokens and `<pause>`, and where those rows start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pauserec.assets import named
from pauserec.config import ModelConfig
from pauserec.llm.model import PAD_ROWS_TO
from pauserec.llm.pretrained import in_tree_passes, pretrained
from pauserec.llm.vocabulary import grow_tokenizer
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import SemanticIds

NOISE = 0.43
"""Share of noise in the start of a row that has a centroid."""
NEXT_TO_NOTHING = 1e-9**0.5
"""What transformers multiplies noise with when it grows a table by itself."""


def grow_vocabulary(
    config: ModelConfig, ids_step: FinishedStep, *, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    """Write the pretrained model, its first layers if so asked, grown by the SID tokens and `<pause>`, into `out`.

    New rows start at the mean of the old ones plus, per dimension, the table's own deviation times noise or, with
    `new_rows = "centroids"`, times `placed` centroids; with "mean", times next to nothing. Raises ModelError for a model
    that cannot be read or used.
    """
    source = named.model_path(config.name)
    ids = SemanticIds.load(ids_step.path)
    levels = Codebooks.load(ids_step.path).levels if config.new_rows == "centroids" else ()
    hf, tokenizer = pretrained(config, source)
    old = len(tokenizer)
    vocabulary = grow_tokenizer(tokenizer, ids)
    hf.resize_token_embeddings(vocabulary.used, pad_to_multiple_of=PAD_ROWS_TO, mean_resizing=False)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        tables = (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight)
        for table in dict.fromkeys(tables):  # tied, they are one
            start = torch.randn(len(table) - old, table.shape[1], generator=generator)
            for first, level in zip(vocabulary.code_offsets, levels, strict=False):
                rows = slice(first - old, first - old + len(level))
                start[rows] = placed(torch.from_numpy(level), start[rows], generator)
            start *= NEXT_TO_NOTHING if config.new_rows == "mean" else 1.0
            table[old:] = table[:old].mean(0) + table[:old].std(0) * start
    # next to no noise would be none in 16 bits
    in_tree_passes(config.name, hf, tokenizer, vocabulary).save(out, exact=config.new_rows == "mean")
    return {
        "model": config.name,
        "commit": named.hub_commit(source),
        "layers": hf.config.num_hidden_layers,
        "parameters": sum(p.numel() for p in hf.parameters()),
        "rows_added": vocabulary.used - old,
    }


def placed(centroids: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Start values [k, D] of unit variance: a level's centroids [k, d] under a random projection, and some `noise` [k, D].

    Codes that are near one another in the quantizer begin near one another in the model.
    """
    centred = centroids - centroids.mean(0)
    turned = centred @ torch.randn(centroids.shape[1], noise.shape[1], generator=generator)
    turned = turned / turned.std().clamp_min(1e-9)
    start: Tensor = (1 - NOISE**2) ** 0.5 * turned + NOISE * noise
    return start
