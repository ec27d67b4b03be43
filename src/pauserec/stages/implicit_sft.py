"""Implicit-reasoning fine-tuning: k pauses in the think block, each history item with its SID and text.

Paper: PauseRec, Section 5.3 (stage 2), eqs. 5 and 6. From the SFT checkpoint with the pretrained `<pause>` row put in.
Loss on the target's SID codes only; pauses carry none. Deviations, all settings: as in sft.py, and which text follows a SID.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pauserec.config import NextItemJob
from pauserec.llm.model import LanguageModel, load_rows
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item import train_next_item
from pauserec.stages.objective import seed_everything
from pauserec.stages.pause_pretrain import ROW


def implicit_sft(
    job: NextItemJob,
    sft: FinishedStep,
    pause: FinishedStep,
    dataset_step: FinishedStep,
    ids_step: FinishedStep,
    *,
    out: Path,
    log: Callable[..., None],
) -> dict[str, Any]:
    """Fine-tune `sft` with the row of `pause`; leave a checkpoint folder in `out`."""
    seed_everything(job.stage.seed)
    ids = SemanticIds.load(ids_step.path)
    model = LanguageModel.load(sft.path, ids)
    with torch.no_grad():
        if (pause.path / ROW).exists():  # an update's model holds its row already
            model.table[model.vocabulary.pause] = load_rows(pause.path / ROW)[0]
    return train_next_item(job, model, sft, dataset_step, ids, out=out, log=log)
