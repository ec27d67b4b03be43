"""Events that came after a data set was prepared: each user's go on, new users and new items come in, nobody leaves."""

import polars as pl

from pauserec.config import DataConfig
from pauserec.data.sequences import SHORTEST, Histories, in_order
from pauserec.records import Dataset


def earlier_events(dataset: Dataset) -> pl.DataFrame:
    """A prepared data set as events: user_id, item_id, day (null where unknown), in the order of each user's history."""
    ids = pl.Series([item.item_id for item in dataset.items], dtype=pl.String)
    users = pl.DataFrame({"user_id": dataset.users, "number": [sequence.tolist() for sequence in dataset.sequences]})
    days = (
        [days.tolist() for days in dataset.days]
        if dataset.days is not None
        else [[None] * len(s) for s in dataset.sequences]
    )
    events = users.with_columns(pl.Series("day", days, dtype=pl.List(pl.Int64))).explode("number", "day")
    day = pl.when(pl.col("day") >= 0).then(pl.col("day"))
    return events.select("user_id", item_id=ids.gather(events["number"]), day=day)


def appended(earlier: Dataset, events: pl.DataFrame, config: DataConfig) -> Histories:
    """Histories of an earlier data set with new events after them.

    events: as `build_histories` takes them. A new user needs `min_interactions` events; a new item needs one, for its ID is
    made from its text. With repeats = "first" an event that the earlier histories hold already is no second one.
    """
    before, new = earlier_events(earlier), in_order(events, config.ties)
    if "day" not in new.columns:
        new = new.with_columns(day=pl.lit(None, dtype=pl.Int64))
    joined = pl.concat([before, new.select("user_id", "item_id", "day")])
    joined = joined.with_row_index("place").sort("user_id", "place").drop("place")
    repeated = 0
    if config.repeats == "first":
        first = joined.filter(pl.struct("user_id", "item_id").is_first_distinct())
        repeated, joined = joined.height - first.height, first
    known = pl.Series(earlier.users, dtype=pl.String)
    enough = pl.len().over("user_id") >= max(SHORTEST, config.min_interactions)
    kept = joined.filter(enough | pl.col("user_id").is_in(known.implode()))
    short = joined["user_id"].n_unique() - kept["user_id"].n_unique()
    return Histories(kept, 0, repeated, joined.height - kept.height, short)
