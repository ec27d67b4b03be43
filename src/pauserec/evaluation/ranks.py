"""ranks.parquet: every user's rank and top items under every model, so that a result can be checked without a GPU."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from pauserec.errors import RunError
from pauserec.evaluation.evaluate import Result
from pauserec.records import Dataset, IntArray, Split
from pauserec.runs.files import read_table, write_table
from pauserec.runs.place import rerun

SCHEMA = pl.Schema(
    {
        "model": pl.String(),
        "split": pl.String(),
        "user_id": pl.String(),
        "target": pl.String(),
        "rank": pl.Int64(),
        "top_items": pl.List(pl.String()),
    }
)


def write_ranks(path: Path, results: Mapping[str, Mapping[Split, Result]], dataset: Dataset) -> None:
    """Write the results, by model and split. `rank` counts from 1, null for a miss; `top_items` are ids, best first.

    A returned item number outside the catalogue stands as null in `top_items`.
    """
    frames = [_frame(model, result, dataset) for model, splits in results.items() for result in splits.values()]
    write_table(path, pl.concat([pl.DataFrame(schema=SCHEMA), *frames]))


def read_ranks(path: Path) -> pl.DataFrame:
    """The table that `write_ranks` wrote. Raises RunError if it is missing, damaged or another table."""
    remedy = f"{rerun(path.parent)} writes it"
    try:
        frame = read_table(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: {remedy}") from None
    except pl.exceptions.PolarsError as error:
        raise RunError(
            f"{path} is not readable as Parquet ({str(error).splitlines()[0]}): delete it, {remedy}"
        ) from None
    if frame.schema != SCHEMA:
        raise RunError(f"{path} has columns {frame.columns}, not {list(SCHEMA)}: delete it, {remedy}")
    return frame


def ranks_of(frame: pl.DataFrame, model: str, split: Split) -> IntArray:
    """Ranks of one model and split, 0 for a miss: [n], as `metrics.summarise` takes them. Raises RunError if none."""
    rows = frame.filter((pl.col("model") == model) & (pl.col("split") == split))
    if rows.is_empty():
        known = sorted(frame["model"].unique())
        raise RunError(f"no {split} ranks of model {model!r}: known models are {', '.join(known)}")
    return rows["rank"].fill_null(0).to_numpy().astype(np.int64)


def _frame(model: str, result: Result, dataset: Dataset) -> pl.DataFrame:
    ids = [item.item_id for item in dataset.items]

    def named(number: int) -> str | None:
        return ids[number] if 0 <= number < len(ids) else None

    return pl.DataFrame(
        {
            "model": [model] * len(result.user_ids),
            "split": [result.split] * len(result.user_ids),
            "user_id": result.user_ids,
            "target": [ids[target] for target in result.targets],
            "rank": [int(rank) or None for rank in result.ranks],
            "top_items": [[named(number) for number in row if number != -1] for row in result.top.tolist()],
        },
        schema=SCHEMA,
    )
