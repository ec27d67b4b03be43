"""Train and test a list of runs within a time budget, most valuable first; summaries are written as they come.

    python benchmarks/gpu/run.py --prepared build/gpu/prepared --out OUT --budget SECONDS [--rows benchmarks/gpu/rows.toml]
                                 [--work FOLDER]

OUT/rows.json grows by each run that ends, so a session cut short keeps what is done; a run that stands in it is not done again,
and files of several sessions can be put together: `--merge FILE ...` adds theirs. Runs go on from their checkpoints if FOLDER
is still there.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from entries import Entry, identity, read
from measure import header

from pauserec.compare import compare
from pauserec.evaluation.metrics import METRICS
from pauserec.results import COST
from pauserec.run import write_atomically

RESERVE = 15.0
"""Seconds kept back for writing summaries."""
KEYS = ("data", "method", "seed", "seen", "run")


class Rows:
    """rows.json: rows, runs that failed and why."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {**header(), "rows": [], "not_done": {}}
        if path.exists():
            self.merge(json.loads(path.read_text()))

    def merge(self, other: dict[str, Any]) -> None:
        """Take over what another session measured; a row that stands here already stays."""
        about = {key: other[key] for key in ("hardware", "commit", "date")}
        known = {self._key(row) for row in self.content["rows"]}
        self.content["rows"] += [about | row for row in other["rows"] if self._key(row) not in known]

    def done(self, entry: Entry) -> bool:
        """Whether a run's rows are here."""
        return any(row["run"] == entry.key for row in self.content["rows"])

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add a run's rows; what several runs share (counted baselines) stands once."""
        shared = [{key: row[key] for key in (*KEYS[:-1], *METRICS)} for row in self.content["rows"]]
        self.content["rows"] += [row for row in rows if {key: row[key] for key in (*KEYS[:-1], *METRICS)} not in shared]
        self.save()

    def give_up(self, entry: Entry, why: str) -> None:
        """Remember that a run was not done."""
        print(f"{entry.key}: {why}", flush=True)
        self.content["not_done"][entry.key] = why
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.content["not_done"] = {k: v for k, v in self.content["not_done"].items() if not self._has(k)}
        write_atomically(self.path, json.dumps(self.content, indent=1).encode())

    def table(self) -> str:
        """All rows as a Markdown table."""
        lines = ["| data | method | seed | seen | " + " | ".join(METRICS) + " | train s | ms/user |", "|---" * 10 + "|"]
        for row in self.content["rows"]:
            cells = [row["data"], row["method"], row["seed"], row["seen"], *(f"{row[m]:.4f}" for m in METRICS)]
            lines.append(
                "| " + " | ".join(map(str, [*cells, f"{row['train_seconds']:.0f}", f"{row['ms_per_user']:.2f}"])) + " |"
            )
        return "\n".join(lines)

    def _has(self, run: str) -> bool:
        return any(row["run"] == run for row in self.content["rows"])

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[key] for key in KEYS)


def start(entry: Entry, prepared: Path, work: Path) -> Path:
    """The run's folder: as it was left, else a copy of what it starts from."""
    folder = work / entry.key
    source = work / entry.start if entry.start and (work / entry.start).exists() else prepared / identity(entry.load())
    if not folder.exists():
        if not source.exists():
            raise FileNotFoundError(f"{source} is missing: run prepare.py for this list of rows")
        shutil.copytree(
            source, folder, ignore=shutil.ignore_patterns("*.partial", "test-*", "result.json", "report.html")
        )
    write_atomically(work / f"{entry.key}.toml", entry.load().dump().encode())
    return folder


def train(entry: Entry, folder: Path, seconds: float) -> str | None:
    """Run the recipe; gives what went wrong."""
    command = [sys.executable, "-m", "pauserec", "run", f"{folder}.toml", "--out", str(folder)]
    try:
        with folder.with_suffix(".log").open("w") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        return f"cut short after {seconds:.0f} s"
    return f"failed with exit code {code}, see {folder.with_suffix('.log').name}" if code else None


def summaries(entry: Entry, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """A row for every model and either rule for seen items."""
    stages = json.loads((folder / "result.json").read_text())["stages"]
    cost = {name: {key: stage.get(key) for key in COST} for name, stage in stages.items()}
    about = {"data": entry.data, "seed": entry.seed, "run": entry.key, "run_seconds": round(seconds, 1), "stages": cost}
    rows = []
    for seen in ("keep", "drop"):
        for row in compare([folder], seen=seen).rows:
            found = {"method": entry.methods.get(row.model, row.model), "seen": seen, **row.metrics, "ci95": row.ci95}
            found |= {"train_seconds": row.train_seconds, "ms_per_user": row.ms_per_user, "slices": row.slices}
            rows.append(about | found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True, help="seconds for everything")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("rows.toml"))
    parser.add_argument("--work", type=Path, default=Path("gpu-runs"), help="run folders, which can be gone on with")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="rows.json of other sessions")
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget - RESERVE
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "rows.json")
    for path in options.merge:
        rows.merge(json.loads(path.read_text()))
    for entry in read(options.rows):
        left = deadline - time.monotonic()
        if rows.done(entry):
            continue
        if entry.minutes * 60 > left:
            rows.give_up(entry, f"needs about {entry.minutes} minutes, {max(left, 0) / 60:.1f} are left")
            continue
        began = time.monotonic()
        folder = start(entry, options.prepared, options.work)
        failed = train(entry, folder, left)
        if failed:
            rows.give_up(entry, failed)
            continue
        rows.add(summaries(entry, folder, time.monotonic() - began))
        print(f"{entry.key}: {time.monotonic() - began:.0f} s", flush=True)
    rows.save()
    table = rows.table()
    (options.out / "rows.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
