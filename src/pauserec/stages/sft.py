"""Next-item supervised fine-tuning (SFT): the user's turn holds SIDs only, the think block is empty.

Paper: PauseRec, Section 2.2 and eq. 3; prompt of Appendix F.1. Full fine-tuning from the CPT checkpoint.
Deviations, all settings: targets = "all" (every event a target, as branches of one window), loss on the user turn's
SIDs, a softmax over a level's codes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pauserec.config import NextItemJob
from pauserec.llm.model import LanguageModel
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item import train_next_item
from pauserec.stages.objective import seed_everything


def sft(
    job: NextItemJob,
    start: FinishedStep,
    dataset_step: FinishedStep,
    ids_step: FinishedStep,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Fine-tune `start` on next items; leave a checkpoint folder in `out`."""
    seed_everything(job.stage.seed)
    ids = SemanticIds.load(ids_step.path)
    model = LanguageModel.load(start.path, ids)
    return train_next_item(job, model, start, dataset_step, ids, out=out, log=log)
