"""Interactions -> sequences: order, repeats, k-core."""

import hashlib
from collections.abc import Sequence
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
    moment = pl.struct("user_id", "time")
    tied = events.height - events.select(moment).n_unique()
    before = events.height
    if repeats == "first":
        events = events.filter(pl.struct("user_id", "item_id").is_first_distinct())
    repeated = before - events.height
    inside = k_core(_numbers(events["user_id"]), _numbers(events["item_id"]), k)
    core = events.filter(pl.Series(inside, dtype=pl.Boolean))
    long = core.filter(pl.len().over("user_id") >= SHORTEST)
    short = core["user_id"].n_unique() - long["user_id"].n_unique()
    # a k below three may have lost items' events with the short users: filter what is left once more
    left = long.filter(
        pl.Series(k_core(_numbers(long["user_id"]), _numbers(long["item_id"]), k, SHORTEST), dtype=pl.Boolean)
    )
    kept = [name for name in ("user_id", "item_id", "day") if name in left.columns]
    outside = events.height - core.height + long.height - left.height
    return Histories(left.select(kept), tied, repeated, outside, short)


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
    tied = events.select(pl.struct("user_id", "time").is_duplicated()).to_series().to_list()
    pairs = zip(events["user_id"].to_list(), events["item_id"].to_list(), tied, strict=True)
    hashes = [id_hash(user, item) if is_tied else b"" for user, item, is_tied in pairs]
    hashed = events.with_columns(pl.Series("hash", hashes, dtype=pl.Binary))
    return hashed.sort("user_id", "time", "hash", "item_id", "line").drop("hash")


def times(values: Sequence[int | float | None]) -> pl.Series:
    """What events are sorted by: whole numbers where all are, so that none loses digits."""
    whole = all(isinstance(value, int) for value in values if value is not None)
    return pl.Series("time", values, dtype=pl.Int64 if whole else pl.Float64, strict=False)


def _numbers(ids: pl.Series) -> IntArray:
    return ids.rank("dense").to_numpy().astype(np.int64) - 1 if len(ids) else np.zeros(0, dtype=np.int64)
