"""What every quantizer ends with: codebooks to unique IDs, both saved, with a quality report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pauserec.config import QuantizerConfig
from pauserec.records import Dataset, FloatArray, IntArray
from pauserec.runs import processes
from pauserec.runs.files import write_atomically
from pauserec.semantic_ids.assign import add_digit, check_capacity, reassign
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import SemanticIds

QUALITY = "quality.json"


def unique_ids(
    config: QuantizerConfig,
    vectors: FloatArray,
    codebooks: Codebooks,
    dataset: Dataset,
    known: tuple[IntArray, FloatArray] | None = None,
) -> tuple[SemanticIds, dict[str, Any]]:
    """IDs of the items with these vectors, collisions resolved as the recipe says, and their quality report.

    known: what `codebooks.encode` would give, where the quantizer knows it.
    """
    latents = codebooks.latents(vectors)
    nearest, errors = known or codebooks.encode(latents)
    if config.collisions == "digit":
        codes, digits = add_digit(nearest, errors)
        ids = SemanticIds(codes, (*config.codebook_sizes, digits))
    else:
        codes = reassign(latents, nearest, errors, codebooks, config.codebook_sizes)
        ids = SemanticIds(codes, config.codebook_sizes)
    quality = ids.quality(nearest, [item.categories for item in dataset.items])
    return ids, {**quality, "quantizer": config.kind, "collisions": config.collisions, "mse": float(errors.mean())}


def stand_in_ids(config: QuantizerConfig, items: int) -> SemanticIds:
    """Unique IDs of the shape that the quantizer would give, for what depends on their shape alone.

    Raises SemanticIdError where the items do not fit.
    """
    sizes = config.codebook_sizes
    if config.collisions == "reassign":
        check_capacity(items, sizes)
    codes = np.stack(np.unravel_index(np.arange(items) % np.prod(sizes), sizes), axis=1)
    if config.collisions == "digit":
        codes, digits = add_digit(codes, np.zeros(items, dtype=np.float32))
        sizes = (*sizes, digits)
    return SemanticIds(codes, sizes)


def write_ids(
    config: QuantizerConfig,
    vectors: FloatArray,
    codebooks: Codebooks,
    dataset: Dataset,
    known: tuple[IntArray, FloatArray] | None = None,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Write the ID table, the codebooks and `quality.json` into `out`; gives the step's summary. known: see `unique_ids`."""
    ids, quality = unique_ids(config, vectors, codebooks, dataset, known)
    if processes.is_main():
        codebooks.save(out)
        write_atomically(out / QUALITY, orjson.dumps(quality, option=orjson.OPT_INDENT_2))
        ids.save(out)
    log(**{key: value for key, value in quality.items() if value is not None})
    return {
        "items": len(ids),
        "sizes": list(ids.sizes),
        "collision_rate_before": quality["collision_rate_before"],
        "items_moved": quality["items_moved"],
    }
