"""Training TIGER, and TIGER as a Recommender."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pauserec.baselines.saved import read_settings, read_weights, write_model
from pauserec.baselines.sequential import Planned, padded
from pauserec.baselines.tiger import Tiger, TigerScorer
from pauserec.config import BaselineJob, TigerConfig
from pauserec.data.windows import spans
from pauserec.decoding.beam import beam_search
from pauserec.decoding.catalogue import Catalogue
from pauserec.errors import RunError, SemanticIdError
from pauserec.evaluation.metrics import CUTOFFS
from pauserec.evaluation.validation import validator
from pauserec.records import Dataset, IntArray, Offer, Ranking
from pauserec.runs.device import best_device, bfloat16_is_fast
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.training.batches import IGNORE
from pauserec.training.loop import fit

PROMPTS_AT_ONCE = 64
"""Histories ranked at once."""
OVERLAP = 0.5
"""The part of its items that a window of a long history shares with the one before it."""


class IdBatches(Planned):
    """All batches of a run: every event but a user's first is a target, with the items before it.

    A sample shows a user's items start to stop - 1, and has the events first to stop for targets: one target, or with a
    causal encoder those of a window.
    """

    def __init__(self, sequences: Sequence[IntArray], ids: SemanticIds, settings: TigerConfig) -> None:
        self._sequences, self._rows, self._codes = sequences, code_rows(ids), ids.codes
        size, self._causal = settings.history_length, settings.encoder == "causal"
        samples = [
            (user, *span)
            for user, sequence in enumerate(sequences)
            for span in (spans(len(sequence), size, OVERLAP) if self._causal else _apart(len(sequence), size))
        ]
        self._samples = np.array(samples, dtype=np.int64).reshape(-1, 4)
        super().__init__((self._samples[:, 3] - self._samples[:, 1]) * ids.depth, settings)

    def __getitem__(self, number: int) -> dict[str, Any]:
        chosen = self._samples[self.plan[number]].tolist()
        shown = [self._sequences[user][start:stop] for user, start, _, stop in chosen]
        targets = [self._sequences[user][first : stop + 1] for user, _, first, stop in chosen]
        wanted = padded(targets, IGNORE, max(map(len, shown)) if self._causal else 1)
        return {
            "histories": self._rows[padded([items + 1 for items in shown], 0)],
            "labels": np.where(wanted[..., None] == IGNORE, IGNORE, self._codes[wanted.clip(min=0)]),
            "count": sum(map(len, targets)),
        }


def _apart(length: int, size: int) -> list[tuple[int, int, int]]:
    """Each event but the first as the only target of its sample, as `spans` writes it."""
    return [(max(0, stop - size), stop, stop) for stop in range(1, length)]


def code_rows(ids: SemanticIds) -> IntArray:
    """The encoder's rows of each item's codes [items + 1, L]; item i is row i + 1, padding is row 0."""
    offsets = 1 + np.cumsum((0, *ids.sizes[:-1]))
    return np.concatenate([np.zeros((1, ids.depth), dtype=np.int64), ids.codes + offsets])


class TigerRecommender:
    """Ranks by constrained beam search over the semantic IDs."""

    def __init__(self, model: Tiger, ids: SemanticIds, settings: TigerConfig) -> None:
        self.model, self.ids, self.settings = model, ids, settings
        self.device = model.table.weight.device
        self.catalogue = Catalogue.build(ids.codes, ids.sizes).to(self.device)
        self._rows = code_rows(ids)

    @torch.inference_mode()
    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool, offer: Offer | None = None) -> Ranking:
        """See Recommender.top. k beyond `beams` widens the beam."""
        self.model.eval()
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        limits = (offer or Offer()).without(histories) if drop_seen else offer
        order = np.argsort([min(len(history), self.settings.history_length) for history in histories], kind="stable")
        for begin in range(0, len(histories), PROMPTS_AT_ONCE):
            rows = order[begin : begin + PROMPTS_AT_ONCE].tolist()
            only = self.catalogue.offered(limits, rows)
            memory = self.model.encode(self._read([histories[row] for row in rows]))
            scorer = TigerScorer(self.model, memory)
            found = beam_search(scorer, self.catalogue, max(k, self.settings.beams), normalise="codebook", only=only)
            items[rows], scores[rows] = found.items[:, :k].cpu().numpy(), found.scores[:, :k].cpu().numpy()
        return Ranking(items, scores)

    def save(self, folder: Path) -> None:
        """Write weights, settings and IDs into `folder`, which must exist."""
        codes, sizes = self.ids.codes.tolist(), list(self.ids.sizes)
        write_model(folder, self.model, self.settings, codes=codes, sizes=sizes)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises RunError."""
        settings, about = read_settings(folder)
        if not isinstance(settings, TigerConfig) or not {"codes", "sizes"} <= about.keys():
            raise RunError(f"{folder} is damaged: train the baseline again")
        try:
            ids = SemanticIds(np.array(about["codes"]), tuple(about["sizes"]))
        except (SemanticIdError, TypeError, ValueError):
            raise RunError(f"{folder} is damaged: train the baseline again") from None
        model = Tiger(ids.sizes, settings)
        read_weights(folder, model)
        return cls(model.to(best_device()), ids, settings)

    def _read(self, histories: Sequence[IntArray]) -> Tensor:
        items = padded([history[-self.settings.history_length :] + 1 for history in histories], 0)
        return torch.from_numpy(self._rows[items]).to(self.device)


def fit_tiger(
    job: BaselineJob, dataset: Dataset, ids: SemanticIds, *, out: Path, log: Callable[..., None]
) -> tuple[TigerRecommender, dict[str, Any]]:
    """Train on the events that `final_fit` admits; keep the best model by validation NDCG@10, saved in `out`."""
    settings = job.settings
    assert isinstance(settings, TigerConfig)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Tiger(ids.sizes, settings)
    recommender = TigerRecommender(model.to(best_device()), ids, settings)
    validate = validator(recommender, dataset, settings, seen=job.seen, top_k=max(CUTOFFS))
    batches = IdBatches(dataset.training_sequences(settings.final_fit), ids, settings)
    bfloat16 = bfloat16_is_fast(best_device())
    summary = fit(
        model, batches, settings, out=out, save=recommender.save, log=log, bfloat16=bfloat16, validate=validate
    )
    return recommender, summary
