"""The result table in the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from pauserec.evaluation.metrics import METRICS

HEADINGS = {"hit@5": "Hit@5", "hit@10": "Hit@10", "ndcg@5": "NDCG@5", "ndcg@10": "NDCG@10"}


@dataclass(frozen=True)
class TableRow:
    """One model: its metrics as in `Result.metrics`, seconds to train (None: nothing to train), ms per user."""

    model: str
    metrics: Mapping[str, Any]
    train_seconds: float | None
    ms_per_user: float | None


def format_table(rows: Sequence[TableRow], *, title: str = "", caption: str = "", marked: str | None = None) -> Table:
    """The table for a rich console; each metric's best value is bold. Names are shown as they are, never as markup.

    marked: the row that gets a star: the best on validation.
    """
    table = Table(title=Text(title) if title else None, caption=Text(caption) if caption else None)
    table.add_column("model", no_wrap=True)
    for heading in (*(HEADINGS[metric] for metric in METRICS), "train s", "ms/user"):
        table.add_column(heading, justify="right")
    best = {metric: max((row.metrics[metric] for row in rows), default=0.0) for metric in METRICS}
    for row in rows:
        cells = [
            Text(f"{row.metrics[metric]:.4f}", style="bold" if row.metrics[metric] == best[metric] else "")
            for metric in METRICS
        ]
        name = Text(f"{row.model} *" if row.model == marked else row.model)
        table.add_row(name, *cells, _number(row.train_seconds), _number(row.ms_per_user))
    return table


def _number(value: float | None) -> Text:
    if value is None:
        return Text("–", style="dim")
    return Text(f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}")
