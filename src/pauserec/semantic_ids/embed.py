"""Item vectors: sentence embeddings of the item text, joined on request with what training events say of the items."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError
from safetensors.numpy import save

from pauserec.config import EmbedderConfig
from pauserec.errors import AssetError, RunError
from pauserec.records import FloatArray, Item, Step
from pauserec.runs.files import write_atomically
from pauserec.runs.progress import track
from pauserec.semantic_ids.codebooks import read_tensors
from pauserec.semantic_ids.cooccurrence import cooccurrence_vectors

VECTORS = "vectors.safetensors"
WIDTHS = "vectors.json"


def embed_items(
    config: EmbedderConfig,
    dataset_step: Step,
    baseline_step: Step | None = None,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """The step `vectors`: writes float32 [items, width] to `vectors.safetensors`, and how the width splits to JSON.

    baseline_step: the trained baseline that `config.baseline` names; its folder holds item vectors under the same name.
    """
    from pauserec.data.dataset import load_dataset

    dataset = load_dataset(dataset_step.path)
    text = text_vectors(config, dataset.items)
    vectors = text
    if config.cooccurrence_dims:
        cooccurrence = cooccurrence_vectors(
            dataset.training_sequences(),
            len(dataset.items),
            dims=config.cooccurrence_dims,
            window=config.cooccurrence_window,
            seed=config.seed,
        )
        vectors = join(text, cooccurrence, config.cooccurrence_weight)
    baseline_width = 0
    if baseline_step is not None:
        rows = load_vectors(baseline_step.path)
        baseline_width = rows.shape[1]
        vectors = join(vectors, centred(rows), config.baseline_weight)
    empty = sum(not item_text(config, item) for item in dataset.items)
    if 2 * empty > len(dataset.items) and vectors.shape[1] == text.shape[1]:
        warnings.warn(
            f"{empty:,} of {len(dataset.items):,} items have no text, and nothing else tells them apart, so their IDs mean "
            "nothing: give an items file (data.items), or set embedder.cooccurrence_dims",
            stacklevel=2,
        )
    summary = {
        "items": len(vectors),
        "text_width": text.shape[1],
        "cooccurrence_width": config.cooccurrence_dims,
        "baseline_width": baseline_width,
        "items_without_text": empty,
    }
    write_atomically(out / VECTORS, save({"vectors": np.ascontiguousarray(vectors)}))
    weights = {"cooccurrence_weight": config.cooccurrence_weight, "baseline_weight": config.baseline_weight}
    write_atomically(out / WIDTHS, orjson.dumps({**summary, **weights}))
    log(**summary)
    return summary


def new_item_vectors(config: EmbedderConfig, items: Sequence[Item], baseline_width: int = 0) -> FloatArray:
    """Vectors of items that came after training, for `SemanticIds.extend`: all parts but the text's are zero.

    baseline_width: as vectors.json has it.
    """
    vectors = text_vectors(config, items)
    parts = ((config.cooccurrence_dims, config.cooccurrence_weight), (baseline_width, config.baseline_weight))
    for width, weight in parts:
        if width:
            vectors = join(vectors, np.zeros((len(items), width), dtype=np.float32), weight)
    return vectors


def join(text: FloatArray, other: FloatArray, weight: float) -> FloatArray:
    """[sqrt(1 - w) text, sqrt(w) other]: rows of length 1 from two parts [n, .] with rows of length 1."""
    joined: FloatArray = np.hstack((np.sqrt(1 - weight) * text, np.sqrt(weight) * other)).astype(np.float32)
    return joined


def centred(rows: FloatArray) -> FloatArray:
    """Rows less their mean, scaled to length 1; a row that is the mean stays zero."""
    moved = rows - rows.mean(axis=0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    scaled: FloatArray = np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 0)
    return scaled


def item_text(config: EmbedderConfig, item: Item) -> str:
    """What the embedder reads of an item."""
    parts = [item.title]
    if config.text == "title+categories":
        parts.append(" > ".join(item.categories))
    return ". ".join(part for part in parts if part)


def text_vectors(config: EmbedderConfig, items: Sequence[Item]) -> FloatArray:
    """Sentence embeddings of the items' text, float32 [n, width], rows of length 1. Raises AssetError."""
    from pauserec.assets.named import embedder_path

    # Imported when used: this module is read by commands that need no torch.
    from pauserec.semantic_ids.sentence_encoder import SentenceEncoder

    folder = Path(embedder_path(config.name))
    try:
        encoder = SentenceEncoder(folder)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise AssetError(f"embedder.name {config.name!r} cannot be loaded ({reason}): check it") from None
    texts = [item_text(config, item) for item in items]
    # Each text once, long ones first: batches of equal length waste no padding, and time left is never underestimated.
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    starts = range(0, len(distinct), config.batch_size)
    try:
        rows = [encoder.encode(distinct[start : start + config.batch_size]) for start in track(starts, "embed items")]
    except ValueError as error:  # a model for other purposes: no padding token, for example
        reason = str(error).splitlines()[0]
        raise AssetError(f"embedder.name {config.name!r} embeds no text ({reason}): name a sentence embedder") from None
    place = {text: row for row, text in enumerate(distinct)}
    vectors: FloatArray = np.concatenate(rows)[[place[text] for text in texts]]
    return vectors


def load_vectors(folder: Path) -> FloatArray:
    """The vectors a step wrote, float32 [n, width]. Raises RunError if it is damaged or not finite."""
    vectors = read_tensors(folder / VECTORS).get("vectors")
    if vectors is None or vectors.ndim != 2 or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise RunError(f"{folder / VECTORS} holds no finite float32 vectors: redo the step with --redo {folder.name}")
    return vectors
