"""Popularity: everyone gets the items with the most training events."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pauserec.errors import RunError
from pauserec.evaluation.ranking import ranked_among
from pauserec.records import Dataset, FinalFit, IntArray, Offer, Ranking

WEIGHTS = "model.safetensors"


class Popularity:
    """Ranks by the number of training events; equal counts go by item number (which carries no information)."""

    def __init__(self, counts: IntArray) -> None:
        """counts: [items], events per item."""
        self.counts = counts
        self._order = np.argsort(-counts, kind="stable")
        """[items], the most frequent first."""

    @classmethod
    def fit(cls, dataset: Dataset, *, final_fit: FinalFit = "train") -> Self:
        """Count the events that `final_fit` admits."""
        return cls(count_events(dataset.training_sequences(final_fit), len(dataset.items)))

    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool, offer: Offer | None = None) -> Ranking:
        """The k most frequent items, without the history's own where `drop_seen`. Scores are event counts."""
        items = len(self.counts)
        return ranked_among(histories, k, self._most_frequent, items=items, drop_seen=drop_seen, offer=offer)

    def save(self, folder: Path) -> None:
        """Write the counts into `folder`, which must exist."""
        save_file({"counts": self.counts}, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises RunError."""
        return cls(load_tensors(folder, ("counts",))["counts"])

    def _most_frequent(self, histories: Sequence[IntArray], number: int) -> tuple[IntArray, np.ndarray]:
        columns = np.sort(self._order[:number])
        return columns, np.tile(self.counts[columns].astype(np.float64), (len(histories), 1))


def count_events(sequences: Sequence[IntArray], items: int) -> IntArray:
    """Events per item number: [items]."""
    events = np.concatenate(sequences) if sequences else np.empty(0, dtype=np.int64)
    return np.bincount(events, minlength=items).astype(np.int64)


def load_tensors(folder: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named tensors of a baseline's weights file. Raises RunError if it is missing, damaged or another's."""
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: fit the baseline again") from None
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}): fit the baseline again") from None
    if set(tensors) != set(names):
        raise RunError(f"{path} holds {sorted(tensors)}, not {sorted(names)}: fit the baseline again")
    return tensors
