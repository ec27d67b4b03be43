"""What events are sorted by: a position in the user's history, the time, or the file itself.

An order column counts where the recipe names it, where the file has no time, or where it proves to be a position. A column
may be called `order` for another reason: shops number their purchases so.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from pauserec.data.raw.layouts import EventLayout

OrderedBy = Literal["order", "timestamp", "file"]
OrderRule = Literal["named", "positions", "no positions", "only"]
WITHOUT_GAPS = 0.95
"""Least share of users whose events an order column must count from 0 or 1, none left out."""
RISING = 0.99
"""Least share of a user's neighbouring events whose times must not fall."""


@dataclass(frozen=True)
class Order:
    """What was chosen, and why.

    rule: `named` in the recipe; `only`, the file has no other, or neither; of both, order is made of `positions` in users'
    histories, or of `no positions`. disagree: users for whom order and time contradict each other, None unless the file has
    both.
    """

    by: OrderedBy
    rule: OrderRule
    disagree: int | None = None
    users: int = 0

    def say(self, path: Path, layout: EventLayout) -> None:
        """Warn in one line where the recipe left the choice open, or where the two contradict each other."""
        order, time = layout.order, layout.timestamp
        disagree = f"{order} and {time} disagree for {self.disagree} of {self.users} users"
        follow = f"{path.name} has both {order} and {time}: events follow {order if self.by == 'order' else time}"
        if self.rule == "positions":
            also = f", though {disagree}" if self.disagree else ""
            line = f"{follow}, a position in each user's history{also}: data.columns.order decides"
        elif self.rule == "no positions":
            line = f"{follow}, as {order} is no position in a user's history; {disagree}: data.columns.order decides"
        elif self.rule == "named" and self.disagree:
            line = f"{follow}; {disagree}: data.columns.order decides"
        else:
            return
        warnings.warn(line, stacklevel=2)


def choose_order(layout: EventLayout, events: pl.DataFrame, *, has_time: bool) -> Order:
    """What the events of a file are sorted by.

    events: columns user_id, item_id, order (a number), order_problem (null if nothing is wrong) and time (nanoseconds).
    has_time: whether the file has a column of times.
    """
    if events["order"].null_count() == events.height and events["order_problem"].null_count() == events.height:
        return Order("timestamp" if has_time else "file", "only")
    if not has_time or events["time"].null_count() == events.height:
        return Order("order", "named" if layout.order_named else "only")
    events = events.select("user_id", "item_id", "order", "time").sort("user_id", "order", "time", "item_id")
    falls = _falls(events)
    pairs, fallen = int(falls["pairs"].sum()), int(falls["falls"].sum())
    disagree = falls.filter(pl.col("falls") > 0).height
    number = events["user_id"].n_unique()
    if layout.order_named:
        return Order("order", "named", disagree, number)
    if fallen <= (1 - RISING) * pairs and _counts_events(events):
        return Order("order", "positions", disagree, number)
    return Order("timestamp", "no positions", disagree, number)


def _falls(events: pl.DataFrame) -> pl.DataFrame:
    """By user: neighbouring events of known order and time (`pairs`), and those whose time falls (`falls`)."""
    known = events.filter(pl.col("order").is_not_null() & pl.col("time").is_not_null())
    steps = known.with_columns(pl.col("time").diff().over("user_id").alias("step")).drop_nulls("step")
    return steps.group_by("user_id").agg(pl.len().alias("pairs"), (pl.col("step") < 0).sum().alias("falls"))


def _counts_events(events: pl.DataFrame) -> bool:
    """Whether `order` is a position in the user's history: distinct there, and 0, 1, 2 ... or 1, 2, 3 ... for nearly all."""
    if events["order"].dtype != pl.Int64:
        return False
    order = pl.col("order")
    rows = events.unique(["user_id", "item_id", "order"])  # a row that stands twice speaks against nothing
    of_user = rows.group_by("user_id").agg(
        pl.len().alias("events"),
        order.count().alias("known"),
        order.drop_nulls().n_unique().alias("different"),
        order.min().alias("first"),
        order.max().alias("last"),
    )
    whole = (pl.col("known") == pl.col("events")) & (pl.col("last") - pl.col("first") == pl.col("events") - 1)
    gapless = of_user.filter(whole & pl.col("first").is_in([0, 1])).height
    return bool((of_user["different"] == of_user["known"]).all()) and gapless >= WITHOUT_GAPS * of_user.height
