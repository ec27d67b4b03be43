"""Whether the ids of two files meet, and by which rule of spelling they would."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import polars as pl

from pauserec.config import IdRule
from pauserec.data.raw.clean import respelt

RULES: dict[IdRule, str] = {
    "decimal": 'without ".0"',
    "zeros": "without leading zeros",
    "case": "in small letters",
    "blanks": "without blanks",
}
LIKELY = 0.5
"""Least share of the ids unknown as they are that a rule must bring together."""


@dataclass(frozen=True)
class Meeting:
    """Item ids of the interactions that the items file lacks, and the rules under which most of them would meet."""

    unknown: int
    rules: tuple[IdRule, ...]
    here: str
    there: str
    files: tuple[str, str]

    def line(self) -> str:
        """As a line for a reader; empty where no rule helps."""
        if not self.rules:
            return ""
        how = " and ".join(RULES[rule] for rule in self.rules)
        setting = ", ".join(f'"{rule}"' for rule in self.rules)
        return (
            f"item ids of {self.files[0]} look like {self.here!r}, those of {self.files[1]} like {self.there!r}: they would "
            f"meet {how}: set data.ids=[{setting}]"
        )


def meeting(unknown: pl.Series, known: pl.Series, events: Path, items: Path) -> Meeting | None:
    """Look at the ids of events whose item is unknown; null where there is none.

    The fewest rules that bring at least LIKELY of them together are named.
    """
    ids = unknown.unique().sort()
    if ids.is_empty() or known.is_empty():
        return None
    files = (events.name, items.name)
    for number in (1, 2):
        for rules in combinations(RULES, number):
            spelt = respelt(known, rules)
            met = respelt(ids, rules).is_in(spelt.implode())
            if met.sum() >= LIKELY * len(ids):
                here = ids.filter(met)[0]
                there = known.filter(spelt == respelt(pl.Series([here]), rules)[0])[0]
                return Meeting(len(ids), rules, here, there, files)
    return Meeting(len(ids), (), ids[0], known[0], files)
