"""What the benchmarks share: interleaved timing with a calibration against noise, peak memory, and the JSON they leave.

Shared machines are noisy. A fixed matrix product is timed before and after each side; a round in which it drifts by more
than a tenth is thrown away and repeated. What counts is the ratio of two sides of one round, not a time.
"""

import argparse
import ctypes
import datetime
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from pauserec.runs.device import forget_peak
from pauserec.semantic_ids.codes import SemanticIds

SIZES = (256, 256, 256, 256)
RESULTS = Path(__file__).parent / "results"
DRIFT = 0.10


def clock(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU milliseconds of one call."""
    _wait()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    _wait()
    return {"wall_ms": 1e3 * (time.perf_counter() - wall), "cpu_ms": 1e3 * (time.process_time() - cpu)}


def interleaved(
    sides: dict[str, Callable[[], Any]], *, rounds: int, warm_up: int = 1, most: int = 2
) -> dict[str, dict[str, Any]]:
    """Time every side once per round, `rounds` undisturbed rounds (at most `most` times as many tries).

    Gives per side the minimum and median of wall and CPU time, and how many rounds were thrown away.
    """
    for _ in range(warm_up):
        for work in sides.values():
            work()
    kept: list[dict[str, dict[str, float]]] = []
    disturbed: list[dict[str, dict[str, float]]] = []
    while len(kept) < rounds and len(kept) + len(disturbed) < most * rounds:
        times, calm = {}, [_calibrate()]
        for name, work in sides.items():
            times[name] = clock(work)
            calm.append(_calibrate())
        (kept if max(calm) <= (1 + DRIFT) * min(calm) else disturbed).append(times)
    used = kept if len(kept) >= rounds else sorted(kept + disturbed, key=_total)[:rounds]
    thrown = len(kept) + len(disturbed) - len(used)
    return {name: _summary([row[name] for row in used], thrown, calm=len(kept) >= rounds) for name in sides}


def ratio(times: dict[str, dict[str, Any]], slow: str, fast: str) -> float:
    """Median wall time of `slow` over that of `fast`."""
    return float(round(times[slow]["wall_ms_median"] / times[fast]["wall_ms_median"], 3))


def product_rate(dtype: torch.dtype, rows: int = 400, inner: int = 576, columns: int = 1536) -> float:
    """Floating-point operations per second of a matrix product of a layer's shape, the best of thirty."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(rows, inner, dtype=dtype, device=device), torch.randn(columns, inner, dtype=dtype, device=device)
    best = min(clock(lambda: a @ b.T)["wall_ms"] for _ in range(30))
    return 2.0 * rows * inner * columns / best * 1e3


def random_ids(items: int) -> SemanticIds:
    """Distinct IDs of SIZES, always the same ones."""
    keys = np.random.default_rng(0).choice(int(np.prod(SIZES)), items, replace=False)
    return SemanticIds(np.stack(np.unravel_index(keys, SIZES), axis=1).astype(np.int64), SIZES)


def fresh_peak() -> None:
    """Give back what was freed, which would hide what comes next, and count peak memory from here."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    forget_peak()


def header() -> dict[str, Any]:
    """Hardware, versions, commit and date of a result."""
    commit = _git("rev-parse", "--short", "HEAD") or os.environ.get("PAUSEREC_COMMIT", "unknown")
    changed = _git("status", "--porcelain", "src")
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit + ("+changes" if changed else ""),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="also write the JSON under benchmarks/results/")
    return parser


def report(name: str, content: dict[str, Any], save: bool) -> None:
    """Print the JSON; keep it if asked to."""
    text = orjson.dumps({"benchmark": name, **START, **content}, option=orjson.OPT_INDENT_2)
    sys.stdout.buffer.write(text + b"\n")
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}-{datetime.date.today().isoformat()}.json").write_bytes(text + b"\n")


def _summary(rows: list[dict[str, float]], thrown: int, *, calm: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("wall_ms", "cpu_ms"):
        values = [row[key] for row in rows]
        found[f"{key}_median"] = round(statistics.median(values), 3)
        found[f"{key}_min"] = round(min(values), 3)
    return found | {"rounds": len(rows), "rounds_thrown_away": thrown, "calm": calm}


def _total(times: dict[str, dict[str, float]]) -> float:
    return sum(side["wall_ms"] for side in times.values())


def _calibrate() -> float:
    a = torch.ones(768, 768)
    return min(clock(lambda: a @ a)["wall_ms"] for _ in range(5))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no git or no repository."""
    try:
        command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


START = header()
"""Taken when a benchmark starts: the tree may move on while it runs."""
