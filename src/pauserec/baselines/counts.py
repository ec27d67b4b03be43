"""Co-occurrence: what stood near the user's latest items in other users' histories.

score(j) = sum over the user's last items i, latest first, of decay^position * C[i, j] / sqrt(popularity[j]).
C[i, j] sums, over the training events of i and j of one user at most `window` positions apart,
distance_decay^(distance - 1) where j came after i, and `backward` times that where j came before.
The damping is half of cosine similarity's (Sarwar et al., "Item-based collaborative filtering recommendation
algorithms", WWW 2001): the popularity of i is not divided out.

The settings' defaults are what validation data of Amazon Beauty and Toys prefer (benchmarks/cooccurrence.py); other data
prefer others: films, for example, nearly symmetric counts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save_file

from pauserec.baselines.popularity import WEIGHTS, count_events, load_tensors
from pauserec.config import CooccurrenceSettings
from pauserec.data.pairs import weighted_pairs
from pauserec.errors import RunError
from pauserec.evaluation.ranking import ranked_among
from pauserec.records import Dataset, FinalFit, IntArray, Offer, Ranking

SETTINGS = "settings.json"


class Cooccurrence:
    """Item-to-item recommender. Items without any score follow by popularity, so a list is as long as it can be."""

    def __init__(self, similarity: Any, counts: IntArray, settings: CooccurrenceSettings) -> None:
        """similarity: scipy CSR [items, items], C[i, j] / sqrt(counts[j]). counts: [items], events per item."""
        self.similarity = similarity
        self.counts = counts
        self.settings = settings
        self._popular = np.argsort(-counts, kind="stable")
        self._filler = np.empty(len(counts), dtype=np.float64)
        """[items] scores in [-1, 0), most popular highest, all different."""
        self._filler[self._popular] = -(np.arange(len(counts)) + 1.0) / max(len(counts), 1)

    @classmethod
    def fit(
        cls, dataset: Dataset, settings: CooccurrenceSettings | None = None, *, final_fit: FinalFit = "train"
    ) -> Self:
        """Count co-occurrences in the events that `final_fit` admits."""
        settings = settings or CooccurrenceSettings()
        sequences = dataset.training_sequences(final_fit)
        counts = count_events(sequences, len(dataset.items))
        damping = 1.0 / np.sqrt(np.maximum(counts, 1))
        similarity = cooccurrences(sequences, len(dataset.items), settings).multiply(damping[None]).tocsr()
        similarity.sort_indices()
        return cls(similarity, counts, settings)

    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool, offer: Offer | None = None) -> Ranking:
        """The k best items. Co-occurring items score above 0; the rest follow by popularity with scores below 0."""
        items = len(self.counts)
        return ranked_among(histories, k, self._near, items=items, drop_seen=drop_seen, offer=offer)

    def save(self, folder: Path) -> None:
        """Write weights and settings into `folder`, which must exist."""
        tensors = {
            "indptr": self.similarity.indptr.astype(np.int64),
            "indices": self.similarity.indices.astype(np.int64),
            "values": self.similarity.data.astype(np.float64),
            "counts": self.counts,
        }
        save_file(tensors, folder / WEIGHTS)
        (folder / SETTINGS).write_text(self.settings.model_dump_json(indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises RunError."""
        try:
            settings = CooccurrenceSettings.model_validate_json((folder / SETTINGS).read_bytes())
        except FileNotFoundError:
            raise RunError(f"{folder / SETTINGS} is missing: fit the baseline again") from None
        except ValidationError as error:
            raise RunError(f"{folder / SETTINGS} is damaged ({error.error_count()} faults): fit it again") from None
        tensors = load_tensors(folder, ("indptr", "indices", "values", "counts"))
        items = len(tensors["counts"])
        from scipy import sparse

        similarity = sparse.csr_array((tensors["values"], tensors["indices"], tensors["indptr"]), shape=(items, items))
        return cls(similarity, tensors["counts"], settings)

    def _near(self, histories: Sequence[IntArray], number: int) -> tuple[IntArray, np.ndarray]:
        """What co-occurs with one of the histories, and so many popular items; [m] in order, and scores [n, m]."""
        found = (self._weights(histories) @ self.similarity).tocoo()
        columns = np.union1d(found.col, self._popular[:number])
        scores = np.tile(self._filler[columns], (len(histories), 1))
        near = found.data > 0
        scores[found.row[near], np.searchsorted(columns, found.col[near])] = found.data[near]
        return columns, scores

    def _weights(self, histories: Sequence[IntArray]) -> Any:
        """History weights as CSR [n, items]; an item that stands in a history twice has both weights."""
        from scipy import sparse

        recent = [history[-self.settings.last :][::-1] for history in histories]
        lengths = [len(items) for items in recent]
        rows = np.repeat(np.arange(len(recent)), lengths)
        values = np.concatenate([self.settings.decay ** np.arange(length) for length in lengths])
        shape = (len(recent), len(self.counts))
        return sparse.csr_array((values, (rows, np.concatenate(recent))), shape=shape)


def cooccurrences(sequences: Sequence[IntArray], items: int, settings: CooccurrenceSettings) -> Any:
    """C of the formula above, as CSR [items, items]; an item does not co-occur with itself."""
    forward = weighted_pairs(sequences, items, settings.distance_decay ** np.arange(settings.window))
    return (forward + settings.backward * forward.T).tocsr()
