"""IDs of items that came after the quantizer was trained: known items keep theirs, new ones get free ones near their like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import save

from pauserec.config.update import UpdateJob
from pauserec.records import Dataset, FloatArray, IntArray, Step
from pauserec.runs import processes
from pauserec.runs.files import read_json, write_atomically
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.semantic_ids.embed import VECTORS, WIDTHS, load_vectors, new_item_vectors
from pauserec.semantic_ids.quantize import QUALITY


def later_vectors(job: UpdateJob, dataset_step: Step, *, out: Path, log: Callable[..., None]) -> dict[str, Any]:
    """The step `vectors` of an update: known items keep theirs, new ones are embedded alone.

    The co-occurrence part of a new item is the mean of those of the items beside it in training histories.
    """
    from pauserec.data.dataset import load_dataset

    earlier, dataset = load_dataset(Path(job.run) / "dataset"), load_dataset(dataset_step.path)
    old, widths = load_vectors(Path(job.run) / "vectors"), read_json(Path(job.run) / "vectors" / WIDTHS)
    places, new = known_items(earlier, dataset)
    vectors = np.zeros((len(dataset.items), old.shape[1]), dtype=np.float32)
    vectors[places >= 0] = old[places[places >= 0]]
    if len(new):
        items = [dataset.items[number] for number in new]
        vectors[new] = new_item_vectors(job.embedder, items, int(widths.get("baseline_width", 0)))
        part = slice(int(widths["text_width"]), int(widths["text_width"]) + int(widths["cooccurrence_width"]))
        vectors[new, part] = _beside(dataset, vectors[:, part], new, job.embedder.cooccurrence_window)
    summary = {**widths, "items": len(vectors), "new_items": len(new)}
    write_atomically(out / VECTORS, save({"vectors": vectors}))
    write_atomically(out / WIDTHS, orjson.dumps(summary))
    log(**summary)
    return summary


def later_ids(
    job: UpdateJob, vectors_step: Step, dataset_step: Step, *, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    """The step `semantic_ids` of an update: writes IDs and the frozen codebooks. Raises SemanticIdError where none is free."""
    from pauserec.data.dataset import load_dataset

    earlier, dataset = load_dataset(Path(job.run) / "dataset"), load_dataset(dataset_step.path)
    folder = Path(job.run) / "semantic_ids"
    old, codebooks = SemanticIds.load(folder), Codebooks.load(folder)
    places, new = known_items(earlier, dataset)
    extended = old.extend(load_vectors(vectors_step.path)[new], codebooks)
    codes = np.empty((len(dataset.items), old.depth), dtype=np.int64)
    codes[places >= 0] = old.codes[places[places >= 0]]
    codes[new] = extended.codes[len(old) :]
    ids = SemanticIds(codes, old.sizes)
    if processes.is_main():
        codebooks.save(out)
        quality = ids.quality(None, [item.categories for item in dataset.items])
        write_atomically(out / QUALITY, orjson.dumps(quality, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
        ids.save(out)
    summary = {"items": len(ids), "sizes": list(ids.sizes), "new_items": len(new)}
    log(**summary)
    return summary


def known_items(earlier: Dataset, dataset: Dataset) -> tuple[IntArray, IntArray]:
    """For each item its number in the earlier data set, -1 where it is new: [n]; and the numbers of the new items."""
    places = np.array([earlier.number_of.get(item.item_id, -1) for item in dataset.items], dtype=np.int64)
    return places, np.flatnonzero(places < 0)


def _beside(dataset: Dataset, known: FloatArray, new: IntArray, window: int) -> FloatArray:
    """For each new item the mean of its neighbours' vectors in training histories, scaled to their length; [m, width]."""
    row = {int(number): place for place, number in enumerate(new)}
    sums = np.zeros((len(new), known.shape[1]), dtype=np.float32)
    for sequence in dataset.training_sequences():
        for place in np.flatnonzero(np.isin(sequence, new)):
            near = sequence[max(0, place - window) : place + window + 1]
            sums[row[int(sequence[place])]] += known[near].sum(axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    usual = float(np.linalg.norm(known, axis=1).max(initial=0.0))
    scaled: FloatArray = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0) * usual
    return scaled
