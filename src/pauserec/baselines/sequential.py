"""What the models over items share in training: batches, validation, the Recommender, saving and loading.

A model gives a state for each place of a history and an output row for each item; an item's score is their product.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pauserec.baselines.bert4rec import Bert4rec
from pauserec.baselines.gru4rec import Gru4rec
from pauserec.baselines.hgn import Hgn
from pauserec.baselines.hstu import Hstu
from pauserec.baselines.item_loss import ItemLoss
from pauserec.baselines.item_model import ItemModel
from pauserec.baselines.rearec import Rearec
from pauserec.baselines.sasrec import Sasrec
from pauserec.baselines.saved import read_settings, read_weights, write_model
from pauserec.config import BaselineJob, SequentialSettings, TigerConfig
from pauserec.errors import RecipeError, RunError
from pauserec.evaluation.metrics import CUTOFFS
from pauserec.evaluation.ranking import ranked
from pauserec.evaluation.validation import validator
from pauserec.records import Dataset, IntArray, Offer, Ranking
from pauserec.runs.device import best_device
from pauserec.semantic_ids.embed import VECTORS
from pauserec.training.batches import IGNORE
from pauserec.training.loop import fit

MODELS: dict[str, Callable[..., ItemModel]] = {
    "sasrec": Sasrec,
    "gru4rec": Gru4rec,
    "bert4rec": Bert4rec,
    "hgn": Hgn,
    "hstu": Hstu,
    "rearec": Rearec,
}


class Planned:
    """All batches of a run: samples of similar length, at most `batch_tokens` places each, in an order drawn per epoch.

    lengths: places of each sample, int64 [samples].
    """

    def __init__(self, lengths: IntArray, settings: SequentialSettings | TigerConfig) -> None:
        if not len(lengths):
            raise RecipeError(f"{settings.name}: no history has two training events, so there is nothing to learn from")
        self.plan: list[IntArray] = []
        self.epoch_ends: list[int] = []
        for epoch in range(int(np.ceil(settings.epochs))):
            rng = np.random.default_rng([settings.seed, epoch])
            order = rng.permutation(len(lengths))
            batches = _similar(order[np.argsort(lengths[order], kind="stable")], lengths, settings.batch_size)
            rng.shuffle(batches)
            share = min(1.0, settings.epochs - epoch)
            self.plan += batches[: max(1, round(share * len(batches)))]
            self.epoch_ends.append(len(self.plan))
        self.tokens = int(sum(lengths[members].sum() for members in self.plan))

    def __len__(self) -> int:
        return len(self.plan)


class SequenceBatches(Planned):
    """A sample is the last `history_length` + 1 items of a user, of which all but the first are targets.

    As in SASRec's own code, so an event before them is never a target.
    """

    def __init__(self, sequences: Sequence[IntArray], settings: SequentialSettings) -> None:
        self._sequences = [sequence[-settings.history_length - 1 :] for sequence in sequences if len(sequence) > 1]
        super().__init__(np.array([len(sequence) - 1 for sequence in self._sequences]), settings)

    def __getitem__(self, number: int) -> dict[str, Any]:
        chosen = [self._sequences[member] for member in self.plan[number]]
        return {
            "items": padded([sequence[:-1] + 1 for sequence in chosen], 0),
            "labels": padded([sequence[1:] for sequence in chosen], IGNORE),
            "count": sum(len(sequence) - 1 for sequence in chosen),
        }


def _similar(order: IntArray, lengths: IntArray, places: int) -> list[IntArray]:
    """Cut users, shortest history first, into groups that fill `places` when padded to their longest."""
    groups, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end - start + 1) * lengths[order[end]] > places:
            groups.append(order[start:end])
            start = end
    return groups


def padded(rows: Sequence[IntArray], filler: int, width: int = 1) -> IntArray:
    """Rows [B, longest or at least `width`], filled up at the start."""
    width = max(width, max((len(row) for row in rows), default=0))
    table = np.full((len(rows), width), filler, dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, width - len(row) :] = row
    return table


class SequenceObjective(nn.Module):
    """Loss summed over all next items of a batch."""

    def __init__(self, model: ItemModel, settings: SequentialSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, items: Tensor, labels: Tensor) -> Tensor:
        """items, labels: int64 [B, n]; a label is the item number that follows, or IGNORE. Gives a scalar."""
        table = self.model.rows()
        return self.model.loss(items, labels, lambda targets: ItemLoss(self.settings, table, targets))


class SequentialRecommender:
    """Ranks by the product of a history's last state and the items' output rows."""

    def __init__(self, model: ItemModel, settings: SequentialSettings) -> None:
        self.model, self.settings = model, settings

    @torch.inference_mode()
    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool, offer: Offer | None = None) -> Ranking:
        """See Recommender.top."""
        self.model.eval()
        return ranked(histories, k, self._scores, drop_seen=drop_seen, offer=offer)

    def _scores(self, histories: Sequence[IntArray]) -> np.ndarray:
        table = self.model.rows()
        items = padded([history[-self.settings.history_length :] + 1 for history in histories], 0)
        states = self.model.last(torch.from_numpy(items).to(table.device))
        return (states @ table.T).float().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write weights, settings and item vectors (for semantic IDs) into `folder`, which must exist."""
        rows = self.model.rows()
        save_file({"vectors": rows.detach().float().cpu().contiguous()}, folder / VECTORS)
        write_model(folder, self.model, self.settings, items=len(rows))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises RunError."""
        settings, about = read_settings(folder)
        if isinstance(settings, TigerConfig) or "items" not in about:
            raise RunError(f"{folder} is damaged: train the baseline again")
        model = MODELS[settings.kind](about["items"], settings)
        read_weights(folder, model)
        return cls(model.to(best_device()), settings)


def fit_sequential(
    job: BaselineJob, dataset: Dataset, *, out: Path, log: Callable[..., None]
) -> tuple[SequentialRecommender, dict[str, Any]]:
    """Train on the events that `final_fit` admits; keep the best model by validation NDCG@10, saved in `out`."""
    settings = job.settings
    assert isinstance(settings, SequentialSettings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = MODELS[settings.kind](len(dataset.items), settings)
    recommender = SequentialRecommender(model.to(best_device()), settings)
    validate = validator(recommender, dataset, settings, seen=job.seen, top_k=max(CUTOFFS))
    batches = SequenceBatches(dataset.training_sequences(settings.final_fit), settings)
    objective = SequenceObjective(model, settings)
    summary = fit(objective, batches, settings, out=out, save=recommender.save, log=log, validate=validate)
    return recommender, summary
