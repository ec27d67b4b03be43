"""A catalogue of a hundred million items: memory, time to build, and time of a decoding step's legal children.

    python benchmarks/catalogue.py [--items 100000000] [--rounds 20] [--save]

Codes are random and unique: four levels of 256. The step is the widest one: K beams, each with 256 possible children.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import SIZES, arguments, clock, report

from pauserec.decoding.catalogue import Catalogue, Filter

BEAMS = 50


def synthetic(items: int) -> Catalogue:
    """Unique random keys, already in order, without ever holding them as codes."""
    rng, space = np.random.default_rng(0), int(np.prod([float(size) for size in SIZES]))
    # evenly spaced with jitter inside each gap: sorted, unique, and as irregular as hashed codes
    gap = space // items
    keys = np.arange(items, dtype=np.int64) * gap + rng.integers(0, gap, items)
    return Catalogue(torch.from_numpy(keys), torch.randperm(items), SIZES)


def steps(table: Catalogue, rounds: int) -> dict[str, float]:
    """Median milliseconds of legal children per level, with and without a history of 50 items that is dropped."""
    found: dict[str, float] = {}
    rng = np.random.default_rng(1)
    seen = rng.integers(0, len(table), 50)
    table.filter(deny=[seen])  # the order by item number is made once per table
    only = table.filter(deny=[seen])
    for level in range(len(SIZES)):
        stride = table.stride(level) * SIZES[level]
        beams = table.keys[torch.from_numpy(rng.integers(0, len(table), 1 if level == 0 else BEAMS))] // stride * stride
        for name, rule in (("", None), ("_seen_dropped", only)):
            step = partial(legal_children, table, beams, level, rule)
            found[f"step_ms_level_{level}{name}"] = median_ms(step, rounds)
    found["filter_ms"] = median_ms(partial(table.filter, deny=[seen]), rounds)
    return found


def legal_children(table: Catalogue, beams: torch.Tensor, level: int, only: Filter | None) -> torch.Tensor:
    """What one decoding step asks of the table."""
    return table.legal(table.bounds(beams[None], level), only)


def median_ms(work: Callable[[], object], rounds: int) -> float:
    """Median wall time of a call."""
    return round(statistics.median(clock(work)["wall_ms"] for _ in range(rounds)), 3)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--items", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    tables: list[Catalogue] = []
    seconds = clock(lambda: tables.append(synthetic(options.items)))["wall_ms"] / 1e3
    (table,) = tables
    content: dict[str, Any] = {
        "items": len(table),
        "beams": BEAMS,
        "bytes_per_item": (table.keys.nbytes + table.items.nbytes) / len(table),
        "bytes_per_item_for_filters": 16.0,
        "seconds_to_make": round(seconds, 1),
        **steps(table, options.rounds),
    }
    report("catalogue", content, options.save)


if __name__ == "__main__":
    main()
