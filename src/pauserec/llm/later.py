"""The "base" step of an update: the model of an earlier run, with rows for codes that only new items use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pauserec.config.update import UpdateJob
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel
from pauserec.records import FloatArray, IntArray
from pauserec.runs.files import read_json
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.semantic_ids.embed import load_vectors
from pauserec.semantic_ids.later import known_items

NEIGHBOURS = 5
"""Known items whose rows a new code's row starts at the mean of."""


def earlier_model(
    job: UpdateJob,
    vectors_step: FinishedStep,
    ids_step: FinishedStep,
    dataset_step: FinishedStep,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Write the earlier run's model into `out`. A code that no known item has starts where the items most alike have theirs."""
    run = Path(job.run)
    ids, vectors = SemanticIds.load(ids_step.path), load_vectors(vectors_step.path)
    model = LanguageModel.load(run / job.stage, SemanticIds.load(run / "semantic_ids"))
    places, new = known_items(load_dataset(run / "dataset"), load_dataset(dataset_step.path))
    old = np.flatnonzero(places >= 0)
    near = old[_nearest(vectors[new], vectors[old])]
    fresh = 0
    with torch.no_grad():
        for level in range(ids.depth):
            used = set(ids.codes[old, level].tolist())
            first = model.vocabulary.code_offsets[level]
            for number, alike in zip(new, near, strict=True):
                code = int(ids.codes[number, level])
                if code not in used:
                    used.add(code)
                    fresh += 1
                    for table in {id(table): table for table in (model.table, model.head)}.values():
                        table[first + code] = table[first + torch.from_numpy(ids.codes[alike, level])].mean(0)
    model.save(out)
    earlier = read_json(run / "base" / "manifest.json").get("summary", {})
    kept = {key: earlier[key] for key in ("model", "commit", "layers", "parameters") if key in earlier}
    return kept | {"rows_added": 0, "rows_started": fresh}


def _nearest(points: FloatArray, others: FloatArray) -> IntArray:
    """Places of the `NEIGHBOURS` of `others` that are most alike to each point: [m, k]."""
    found: IntArray = np.argsort(-(points @ others.T), axis=1)[:, :NEIGHBOURS]
    return found
