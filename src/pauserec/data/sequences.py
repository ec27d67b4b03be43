"""Interactions -> sequences: order, repeats, k-core."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from pauserec.records import IntArray

SHORTEST = 3
"""Leave-last-out needs a training, a validation and a test target."""


@dataclass(frozen=True)
class Histories:
    """Events that are left, and what left.

    events: columns user_id, item_id and, if there was one, day, sorted by user, then by time.
    ties: events that share their time with the user's event before. repeats: later events of a user with the same item.
    outside_core: events that k-core filtering dropped. short_users: users left out for having fewer than 3 events.
    """

    events: pl.DataFrame
    ties: int
    repeats: int
    outside_core: int
    short_users: int


def build_histories(
    events: pl.DataFrame, k: int, ties: Literal["hash", "file"], repeats: Literal["first", "keep"]
) -> Histories:
    """Sort events, treat repeats, filter.

    events: columns user_id, item_id, time, line, and day if it is known. k: least events per item and per user (k-core).
    """
    events = in_order(events, ties)
    tied = int((_same_as_before(events, "user_id") & _same_as_before(events, "time")).sum())
    before = events.height
    if repeats == "first":
        events = events.filter(pl.struct("user_id", "item_id").is_first_distinct())
    repeated = before - events.height
    users, items = numbered(events["user_id"]), numbered(events["item_id"])
    core = k_core(users, items, k)
    long = core.copy()
    if core.any():
        long &= np.bincount(users[core], minlength=int(users.max()) + 1)[users] >= SHORTEST
    short = len(np.unique(users[core])) - len(np.unique(users[long]))
    # a k below three may have lost items' events with the short users: filter what is left once more
    kept = np.flatnonzero(long)
    kept = kept[k_core(users[kept], items[kept], k, SHORTEST)]
    left = events.select(name for name in ("user_id", "item_id", "day") if name in events.columns)[kept]
    return Histories(left, tied, repeated, events.height - left.height - int((core & ~long).sum()), short)


def _same_as_before(events: pl.DataFrame, column: str) -> pl.Series:
    return (events[column] == events[column].shift()).fill_null(value=False)


def k_core(users: IntArray, items: IntArray, k: int, shortest: int = 1) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Events left when users and items with fewer than k, and users with fewer than `shortest`, are dropped until none is.

    users, items: int64 [n], numbers from 0. Gives bool [n].
    """
    keep = np.ones(len(users), dtype=bool)
    while keep.any():
        per_user = np.bincount(users[keep], minlength=int(users.max()) + 1)
        per_item = np.bincount(items[keep], minlength=int(items.max()) + 1)
        still = keep & (per_user[users] >= max(k, shortest)) & (per_item[items] >= k)
        if still.sum() == keep.sum():
            break
        keep = still
    return keep


def id_hash(*parts: str) -> bytes:
    """A fixed 128-bit hash of ids: an order that neither a file nor an id's spelling can shape."""
    # each part behind its length, so that ("a", "bc") and ("ab", "c") differ
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def in_order(events: pl.DataFrame, ties: Literal["hash", "file"]) -> pl.DataFrame:
    """Events sorted by user and time, and within one time as `data.ties` says. A run and `recommend --users` sort by this.

    events: columns user_id, item_id, time, line, and any others.
    """
    if ties == "file":
        return events.sort("user_id", "time", "line")
    # numbers sort faster than text
    ranked = pl.Series("user", numbered(events["user_id"], ordered=True))
    events = events.with_columns(ranked).sort("user", "time").drop("user")
    before = _same_as_before(events, "user_id") & _same_as_before(events, "time")
    tied = before | before.shift(-1).fill_null(value=False)
    if not tied.any():
        return events
    pairs = events.filter(tied).select("user_id", "item_id").iter_rows()
    hashes = pl.Series([id_hash(user, item) for user, item in pairs], dtype=pl.Binary)
    places = tied.arg_true()
    inside = events.filter(tied).with_columns(hashes.alias("hash"))
    inside = inside.sort("user_id", "time", "hash", "item_id", "line").drop("hash")
    order = pl.int_range(events.height, dtype=pl.UInt32, eager=True)
    apart = events.filter(~tied).with_columns(order.filter(~tied).alias("place"))
    return pl.concat([apart, inside.with_columns(places.alias("place"))]).sort("place").drop("place")


def numbered(ids: pl.Series, *, ordered: bool = False) -> IntArray:
    """Numbers from 0 for ids, equal for equal ones. ordered: in the order of the ids."""
    if ids.is_empty():
        return np.zeros(0, dtype=np.int64)
    known = ids.unique().sort() if ordered else ids.unique()
    numbers = pl.DataFrame({"id": known, "number": np.arange(len(known), dtype=np.int64)})
    return ids.alias("id").to_frame().join(numbers, on="id", how="left", maintain_order="left")["number"].to_numpy()
