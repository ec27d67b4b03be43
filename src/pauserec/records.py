"""The records that travel between the layers. Items are numbered 0..n-1 inside a `Dataset`; outside, ids are strings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
Split = Literal["train", "validation", "test"]
FinalFit = Literal["train", "train+validation"]
HELD_OUT: dict[Split, int] = {"test": 1, "validation": 2, "train": 3}
"""How far from the end of a user's sequence each split's target stands (leave-last-out)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One catalogue entry. `title` may be empty; `categories` is a path or a set of labels, most general first."""

    item_id: str
    title: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """One user's item numbers in time order, and the item to predict. `items` never holds events at or after the target."""

    user_id: str
    items: IntArray
    target: int


@dataclass(frozen=True)
class Dataset:
    """A prepared data set: the catalogue and every user's whole sequence in time order.

    items: n_items entries in an order that carries no information (sorted by a hash of the id).
    users: user ids, sorted. sequences: per user an int64 array of item numbers, length >= 3.
    fingerprint: content hash, changes with any item text or event.
    days: per user the day (since 1970, UTC) of each event, -1 where the log has none; None without times.
    """

    items: tuple[Item, ...]
    users: tuple[str, ...]
    sequences: tuple[IntArray, ...]
    fingerprint: str
    days: tuple[IntArray, ...] | None = None
    number_of: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "number_of", {item.item_id: n for n, item in enumerate(self.items)})

    @property
    def interactions(self) -> int:
        """Number of events over all users."""
        return sum(len(sequence) for sequence in self.sequences)

    def split(self, split: Split) -> list[History]:
        """One `History` per user: input is everything before the split's target (leave-last-out)."""
        back = HELD_OUT[split]
        return [
            History(user, sequence[:-back], int(sequence[-back]))
            for user, sequence in zip(self.users, self.sequences, strict=True)
            if len(sequence) > back
        ]

    def training_sequences(self, final_fit: FinalFit = "train") -> list[IntArray]:
        """Per user, the events that a fit may see: all but both held-out targets, or but the test target alone."""
        held_out = HELD_OUT["validation" if final_fit == "train" else "test"]
        return [sequence[:-held_out] for sequence in self.sequences]


@dataclass(frozen=True, slots=True)
class Scored:
    """One recommended item and its score (log-probability for language models; higher is better)."""

    item_id: str
    score: float


@dataclass(frozen=True)
class Recommendations:
    """What `recommend` gives for one history: up to k items, best first, and what happened on the way."""

    items: tuple[Scored, ...]
    unknown: tuple[str, ...] = ()
    """Ids of the history that are not in the catalogue; they were dropped."""
    fallback: str | None = None
    """"popularity" when the history had no known item; else None."""
    fewer_than_asked: bool = False
    """True when fewer than k items were legal."""


@dataclass(frozen=True)
class Ranking:
    """Top items per history. items: int64 [n, k], -1 where fewer than k were legal. scores: float32 [n, k], -inf there."""

    items: IntArray
    scores: FloatArray


@dataclass(frozen=True)
class Offer:
    """What may be recommended to each of several histories, as item numbers.

    allow: nothing but these, where not None. deny: none of these, whatever `allow` says.
    """

    allow: Sequence[IntArray | None] | None = None
    deny: Sequence[IntArray] | None = None

    def rows(self, chosen: Sequence[int]) -> "Offer":
        """The same for some of the histories."""
        allow = None if self.allow is None else [self.allow[row] for row in chosen]
        return Offer(allow, None if self.deny is None else [self.deny[row] for row in chosen])

    def without(self, histories: Sequence[IntArray]) -> "Offer":
        """The same, with each history's own items denied too."""
        if self.deny is None:
            return Offer(self.allow, histories)
        return Offer(self.allow, [np.union1d(a, b) for a, b in zip(self.deny, histories, strict=True)])


class Recommender(Protocol):
    """Anything that ranks the catalogue given histories. Item numbers are those of the `Dataset` it was made for."""

    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool, offer: Offer | None = None) -> Ranking:
        """The k best items for each history (whole, in time order; the recommender truncates it itself).

        With `drop_seen`, no item of the history is ever returned; `offer` limits what may be returned further. Never
        returns an item twice for one history.
        """
        ...


class Step(Protocol):
    """A finished step of a run: its folder and the fingerprint of everything that went into it."""

    @property
    def path(self) -> Path: ...

    @property
    def fingerprint(self) -> str: ...
