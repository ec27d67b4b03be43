"""Batches made by workers are those of the plan, in its order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pauserec.training.ahead import MadeAhead
from pauserec.training.batches import Batches


def plan() -> Batches[int]:
    def make(chosen: Sequence[int]) -> dict[str, Any]:
        return {"tokens": np.array(chosen), "counts": (len(chosen), 0), "count": len(chosen)}

    return Batches(lambda epoch, rng: range(2, 30), lambda n: n, make, epochs=1, batch_tokens=40, seed=0)


def test_workers_make_what_the_plan_has() -> None:
    batches = plan()
    numbers = list(range(1, len(batches), 2))  # of the second of two processes
    before = torch.get_rng_state()
    ahead = MadeAhead(batches, numbers, workers=2, pinned=False)
    for number in numbers:
        found, wanted = ahead[number], batches[number]
        assert found["tokens"].tolist() == wanted["tokens"].tolist()
        assert isinstance(found["tokens"], torch.Tensor)
        assert (tuple(found["counts"]), found["count"]) == (wanted["counts"], wanted["count"])
    assert torch.equal(torch.get_rng_state(), before), "training draws what it drew"


def test_another_batch_is_made_when_it_is_asked_for() -> None:
    batches = plan()
    ahead = MadeAhead(batches, [1, 2], workers=1, pinned=False)
    assert ahead[1]["count"] == batches[1]["count"]
    assert ahead[0]["count"] == batches[0]["count"]
    assert ahead[2]["count"] == batches[2]["count"]
