"""The cost ledger of a stage: what the paper's Table 6 compares, and how well the hardware was used."""

from typing import Any, Literal

import torch

from pauserec.llm.model import LanguageModel
from pauserec.llm.rate import matrix_rate
from pauserec.runs import processes


def with_cost(
    summary: dict[str, Any],
    model: LanguageModel,
    *,
    frozen: bool,
    bfloat16: bool,
    softmax: Literal["full", "codebook"] = "full",
) -> dict[str, Any]:
    """A stage's summary, its model floating-point operations and MFU.

    Operations are those of linear layers on real tokens (forward and backward: 6 a weight, 4 where the backbone is `frozen`)
    and of the head on targets; attention and adapters are left out. MFU relates them to this machine's measured matrix rate.
    """
    passes = 4 if frozen else 6
    tables = {id(table): table.numel() for table in (model.table, model.head)}
    backbone = sum(p.numel() for p in model.hf.parameters()) - sum(tables.values())
    sizes = model.vocabulary.codebook_sizes
    rows = model.vocabulary.used if softmax == "full" else sum(sizes) / len(sizes)
    work = passes * (summary["tokens"] * backbone + summary["targets"] * rows * model.head.shape[1])
    tokens, rate = max(1, summary["tokens"]), matrix_rate(torch.device(model.device.type), bfloat16)
    return {
        **summary,
        "model_flops": float(work),
        "mfu": round(work / tokens * summary["tokens_per_second"] / (rate * processes.world()), 4),
    }
