"""The trained baselines as steps of a run: train one, load one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pauserec.baselines.generative import TigerRecommender, fit_tiger
from pauserec.baselines.saved import read_settings
from pauserec.baselines.sequential import SequentialRecommender, fit_sequential
from pauserec.config import BaselineJob, TigerConfig
from pauserec.data.dataset import load_dataset
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds


def train_baseline(
    job: BaselineJob, dataset_step: FinishedStep, *ids_step: FinishedStep, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    """The step of a trained baseline: leaves its weights and settings in `out`. One over semantic IDs needs `ids_step`."""
    dataset = load_dataset(dataset_step.path)
    if ids_step:
        return fit_tiger(job, dataset, SemanticIds.load(ids_step[0].path), out=out, log=log)[1]
    return fit_sequential(job, dataset, out=out, log=log)[1]


def load_baseline(folder: Path) -> SequentialRecommender | TigerRecommender:
    """Read a trained baseline. Raises RunError."""
    settings, _ = read_settings(folder)
    return (TigerRecommender if isinstance(settings, TigerConfig) else SequentialRecommender).load(folder)
