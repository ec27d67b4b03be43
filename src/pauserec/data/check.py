"""`pauserec data check`: what is in raw files, class by class, without preparing anything."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pauserec.config import DataConfig
from pauserec.data.dataset import describe
from pauserec.data.left_out import remedy
from pauserec.data.raw.events import read_raw
from pauserec.data.raw.layouts import find_files
from pauserec.data.raw.quarantine import Counts, write_quarantine
from pauserec.data.sequences import build_histories
from pauserec.errors import DataError
from pauserec.runs.files import same_file

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class CheckReport:
    """Counts per class of both files (items: null without an items file), and what would be left of them.

    details: as in the dataset step's report.json (ties, repeats, sizes before and after k-core filtering).
    """

    interactions: Counts
    items: Counts | None
    quarantine: Path | None
    details: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for tables: plain dicts, numbers and text."""
        return {**self.details, "quarantine": str(self.quarantine) if self.quarantine else None}


def check(config: DataConfig, out: Path | None = None) -> CheckReport:
    """Read both files, count, and write the quarantined rows to `out`, if it is given (JSON lines: file, line, reason, raw).

    Raises DataError if a file cannot be used at all, or if `out` cannot be written.
    """
    if out is not None and any(path is not None and same_file(path, out) for path in find_files(config)):
        raise DataError(f"--out {out} is a file that is read: name another one")
    raw = read_raw(config)
    histories = build_histories(raw.events, config.min_interactions, config.ties, config.repeats)
    if out is not None:
        try:
            write_quarantine(out, raw.left_out)
        except OSError as error:
            raise DataError(f"cannot write {out} ({error.strerror}): choose another file") from None
    items = None if raw.without_text else raw.item_counts
    details = describe(raw, histories) | {"remedy": remedy(raw)}
    return CheckReport(raw.counts, items, out, details)


def check_table(report: CheckReport) -> "Table":
    """The report as a table: one line per file and class, then what is left for training."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "class", "rows", title="data check")
    table.columns[2].justify = "right"

    def add(name: str, label: str, number: int) -> None:
        table.add_row(name, Text(label), f"{number:,}")

    for name, counts in (("interactions", report.interactions), ("items", report.items)):
        if counts is None:
            continue
        add(name, "read", counts.read)
        add("", "accepted", counts.accepted)
        for total, label, classes in (
            (counts.repaired, "repaired", counts.repairs),
            (counts.quarantined, "quarantined", counts.reasons),
            (None, "note", counts.notes),
        ):
            if total is not None:
                add("", label, total)
            for kind, number in sorted(classes.items()):
                if number:
                    add("", f"{label}: {kind}" if total is None else f"  {kind}", number)
        table.add_section()
    details = report.details
    if details["items_without_events"]:
        add("", "accepted items without a usable event", details["items_without_events"])
    add("histories", f"ordered by {details['ordered_by']}; ties", details["ties"])
    add("", "repeats of an item by a user", details["repeats"])
    add("", "events outside the k-core", details["outside_core"])
    add("", "users left out for fewer than 3 events", details["short_users"])
    for label, key in (("before", "before_core"), ("after", "after_core")):
        for kind, number in details[key].items():
            add("", f"{kind} {label} filtering", number)
    return table


def check_lines(report: CheckReport) -> list[str]:
    """What was decided about the files, with the evidence, and what would bring rows back."""
    details = report.details
    lines = [details["files"], details["times"], details["ids"], details["remedy"].removeprefix("; ")]
    rows = f"quarantined rows: {report.quarantine}" if report.quarantine else "--out FILE writes the quarantined rows"
    return [*dict.fromkeys(line for line in lines if line), rows]
