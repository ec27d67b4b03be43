"""`pauserec data check`: what is in raw files, class by class, without preparing anything."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pauserec.config import DataConfig
from pauserec.data.histories import build_histories
from pauserec.data.quarantine import Counts, write_quarantine
from pauserec.data.sources import read_raw
from pauserec.data.splits import describe
from pauserec.errors import DataError


@dataclass(frozen=True)
class CheckReport:
    """Counts per class of both files (items: null without an items file), and what would be left of them.

    details: as in the dataset step's report.json (ties, repeats, sizes before and after k-core filtering).
    """

    interactions: Counts
    items: Counts | None
    quarantine: Path
    details: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for tables: plain dicts, numbers and text."""
        return {**self.details, "quarantine": str(self.quarantine)}


def check(config: DataConfig, quarantine: Path) -> CheckReport:
    """Read both files, count, and write the quarantined rows to `quarantine` (JSON lines: file, line, reason, raw).

    Raises DataError if a file cannot be used at all, or if `quarantine` cannot be written.
    """
    raw = read_raw(config)
    histories = build_histories(raw.events, config.min_interactions, config.ties, config.repeats)
    try:
        write_quarantine(quarantine, raw.quarantine)
    except OSError as error:
        raise DataError(f"cannot write {quarantine} ({error.strerror}): choose another quarantine file") from None
    items = None if raw.without_text else raw.item_counts
    return CheckReport(raw.counts, items, quarantine, describe(raw, histories))
