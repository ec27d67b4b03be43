"""What of the raw files was left out, said where people look: after the step, under the table, and in errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pauserec.config import DataConfig
from pauserec.data.raw.chunks import NOT_DECODED
from pauserec.data.raw.clean import ORDER_BAD, TIME_BAD, TIME_FUTURE
from pauserec.data.raw.delimited import WRONG_WIDTH
from pauserec.data.raw.events import UNKNOWN_ITEM, Raw
from pauserec.data.raw.quarantine import DUPLICATES, Counts
from pauserec.errors import DataError
from pauserec.records import Dataset

WARN_FROM = 0.01
"""Share of a file's rows from which their loss is a warning."""


def lost_rows(raw: Raw) -> str:
    """ "126 of 360 interactions and 7 of 20 items left out (126 unknown item, 7 line is not UTF-8)"; "" if nothing was."""
    parts = [f"{counts.lost:,} of {counts.read:,} {what}" for what, counts in _files(raw) if counts.lost]
    if not parts:
        return ""
    reasons = [
        f"{number:,} {reason}"
        for _, counts in _files(raw)
        for reason, number in counts.reasons.most_common()
        if reason not in DUPLICATES
    ]
    more = f", and {len(reasons) - 4} more reasons" if len(reasons) > 4 else ""
    return f"{' and '.join(parts)} left out ({', '.join(reasons[:4])}{more})"


def is_much(raw: Raw, share: float) -> bool:
    """Whether a file lost at least this share of its rows."""
    return any(counts.lost and counts.lost >= share * counts.read for _, counts in _files(raw))


def check_loss(raw: Raw, config: DataConfig) -> None:
    """Raise DataError where more than `data.max_loss` of a file is lost, the file that is at fault first."""
    if raw.events.is_empty():
        raise DataError(f"no usable interaction: {_told(raw)}{remedy(raw)}; run `pauserec data check` to see the rows")
    if is_much(raw, config.max_loss):
        raise DataError(
            f"{_told(raw)}{remedy(raw)}; run `pauserec data check` to see the rows, or set data.max_loss to go on without them"
        )


def nothing_left(raw: Raw, config: DataConfig) -> str:
    """What to say where filtering leaves no user."""
    return (
        f"no user is left after {config.min_interactions}-core filtering ({_told(raw)}): lower data.min_interactions "
        "or give more data"
    )


def seen_targets(dataset: Dataset) -> dict[str, int]:
    """Users whose held-out item stands in the history before it: it cannot be hit where seen items are dropped."""
    return {
        split: sum(bool(np.isin(sequence[-back], sequence[:-back])) for sequence in dataset.sequences)
        for split, back in (("validation", 2), ("test", 1))
    }


def unreachable(summary: Mapping[str, Any]) -> str:
    """A line on the targets that dropping seen items makes unreachable; "" if there are none. summary: of the dataset step."""
    seen = summary.get("seen_targets") or {}
    if not any(seen.values()):
        return ""
    users = summary["users"]
    told = " and ".join(f"{number:,} of {users:,} {split} items" for split, number in sorted(seen.items()) if number)
    return f'{told} were seen before and are dropped, so no model can hit them: set evaluation.seen="keep"'


def refuse_unreachable(summary: Mapping[str, Any]) -> str:
    """As `unreachable`. Raises DataError where no test item can be hit at all."""
    line = unreachable(summary)
    if line and summary["seen_targets"]["test"] == summary["users"]:
        raise DataError(line)
    return line


def _files(raw: Raw) -> list[tuple[str, Counts]]:
    files = [("interactions", raw.counts)]
    return files if raw.without_text else [*files, ("items", raw.item_counts)]


def _told(raw: Raw) -> str:
    told = []
    files = _files(raw)
    if len(files) == 2 and raw.item_counts.lost * 2 >= raw.item_counts.read and raw.item_counts.lost:
        files.reverse()  # a catalogue that cannot be read takes the events along
    for what, counts in files:
        most = ", ".join(f"{number} x {reason}" for reason, number in counts.reasons.most_common(3))
        if what == "interactions" or counts.lost:
            most = f" ({most})" if most else ""
            told.append(f"of {counts.read} {what} read, {counts.quarantined} were quarantined{most}")
    return "; ".join(told)


def remedy(raw: Raw) -> str:
    """What would bring rows back, as the end of a sentence; "" if nothing is known."""
    reasons = raw.counts.reasons + raw.item_counts.reasons
    if reasons[NOT_DECODED]:
        return (
            '; text that is not UTF-8 is read with data.encoding (for example "windows-1252"), or converted with '
            "iconv -f WINDOWS-1252 -t UTF-8"
        )
    if raw.counts.reasons[ORDER_BAD]:
        return '; if the order column is no order of events, set data.columns.order="null"'
    if 2 * reasons[WRONG_WIDTH] >= raw.counts.read:
        return "; most rows have another number of fields than the header: mend the header, or set data.delimiter"
    if raw.counts.reasons[TIME_FUTURE] and raw.clock.hint:
        return f"; {raw.clock.hint}"
    if raw.counts.reasons[TIME_BAD]:
        return f"; {raw.clock.unread}" if raw.clock.unread else ""
    if raw.counts.reasons[UNKNOWN_ITEM] and raw.meeting is not None:
        if met := raw.meeting.line():
            return f"; {met}"
        if raw.counts.reasons[UNKNOWN_ITEM] * 2 >= raw.counts.read:
            return f"; an id there is {raw.meeting.here!r}, one of the items file {raw.meeting.there!r}"
    return ""
