"""What the report and the terminal show of a finished run: examples, embeddings, and the facts around them."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import torch

from pauserec.data.dataset import load_dataset
from pauserec.llm.model import ADDED_ROWS
from pauserec.llm.weights import input_table, whole_checkpoint
from pauserec.records import Dataset, FloatArray
from pauserec.report.page import EmbeddingRows, Example, ReportContent, ShownItem
from pauserec.results.best import best_row
from pauserec.results.finished import RANKS, RESULT
from pauserec.results.ledger import table_rows
from pauserec.runs.files import read_table
from pauserec.runs.folder import Run
from pauserec.runs.logs import last_trainings, read_log
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.pause_pretrain import ROW

TEXT_ROWS = 1500
"""Text rows drawn for the embedding picture."""


def report_content(run: Run, content: Mapping[str, Any], tested: Mapping[str, FinishedStep]) -> ReportContent:
    """Everything the report shows of a run whose steps are done."""
    dataset = load_dataset(run.finished("dataset").path)
    return ReportContent(
        name=run.recipe.name,
        seen=content["seen"],
        final_fit=" and ".join(content["final_fit"]),
        data=content["data"],
        models=content["models"],
        costs={
            row.model: (row.train_seconds or 0.0, row.ms_per_user or 0.0)
            for row in table_rows(run.recipe, content, tested)
        },
        stages=content["stages"],
        log=last_trainings(read_log(run.path / "log.jsonl"), run.recipe.steps),
        quality=_json(run.finished("semantic_ids").path / "quality.json") if "semantic_ids" in run.steps else {},
        data_report=_json(run.finished("dataset").path / "report.json"),
        embeddings=_embeddings(run),
        examples=_examples(run, dataset, 3),
        best=content.get("best"),
        notes=content.get("notes", ()),
        facts={
            "backbone": run.recipe.model.name if run.recipe.stages else "none",
            "layers": (content.get("model") or {}).get("layers"),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        },
    )


def examples(run: Run, users: int) -> list[dict[str, Any]]:
    """Titles of some test users' histories and of what the run's main model recommends them."""
    dataset = load_dataset(run.finished("dataset").path)
    main = main_model(run)
    return [
        {
            "user_id": example.user_id,
            "history": [item.title for item in example.history],
            "recommendations": [item.title for item in example.recommendations[main]],
        }
        for example in _examples(run, dataset, users)
    ]


def main_model(run: Run) -> str:
    """The model a run is about: the best on validation; else of the last stage, the last baseline trained, the first row."""
    recipe = run.recipe
    if best := best_row(_json(run.path / RESULT).get("models", {})):
        return best
    rows = [model.name for model in recipe.evaluation.models if model.stage == recipe.last_model]
    rows += [baseline.name for baseline in reversed(recipe.baselines)]
    return [*rows, *recipe.evaluation.baselines][0]


def _examples(run: Run, dataset: Dataset, users: int) -> list[Example]:
    ranks = read_table(run.path / RANKS).filter(pl.col("split") == "test")
    names = ranks["user_id"].unique(maintain_order=True).to_list()
    step = max(1, len(names) // users)
    found = []
    for name in names[step // 2 :: step][:users]:
        sequence = dataset.sequences[dataset.users.index(name)]
        rows = ranks.filter(pl.col("user_id") == name)
        lists = {row["model"]: [_shown(dataset, i) for i in row["top_items"][:10]] for row in rows.to_dicts()}
        ids = [dataset.items[item].item_id for item in sequence.tolist()]
        history = [_shown(dataset, item_id) for item_id in ids[-11:-1]]
        found.append(Example(name, history, _shown(dataset, ids[-1]), lists))
    return found


def _shown(dataset: Dataset, item_id: str) -> ShownItem:
    title = dataset.items[dataset.number_of[item_id]].title
    return ShownItem(item_id, title or item_id)


def _embeddings(run: Run) -> list[EmbeddingRows]:
    """Rows of the input table after each stage, as far as it is known. Every stage shows the same text rows."""
    if not run.recipe.stages:
        return []
    ids = SemanticIds.load(run.finished("semantic_ids").path)
    found = []
    for name in ["base", *(stage.name for stage in run.recipe.stages)]:
        folder = run.finished(name).path
        if (folder / ROW).exists():
            continue
        first = orjson.loads((whole_checkpoint(folder) / ADDED_ROWS).read_bytes())["first_sid"]
        table = _input_table(folder)
        if table is None:
            return []
        text = np.sort(np.random.default_rng(0).choice(first, min(TEXT_ROWS, first), replace=False))
        pause = first + len(ids.tokens())
        found.append(EmbeddingRows(name, table[text], table[first + 2 : pause], table[pause : pause + 1]))
    return found


def _input_table(folder: Path) -> FloatArray | None:
    table = input_table(folder)
    return None if table is None else table.float().numpy()


def _json(path: Path) -> dict[str, Any]:
    return dict(orjson.loads(path.read_bytes())) if path.exists() else {}
