"""Train and test a list of runs within a time budget, most valuable first; summaries are written as they come.

    python benchmarks/gpu/run.py --prepared build/gpu/prepared --out OUT --budget SECONDS [--rows benchmarks/gpu/rows.toml]
                                 [--work FOLDER]

OUT/rows.json grows by each run that ends, so a session cut short keeps what is done; a run that stands in it is not done again,
and files of several sessions can be put together: `--merge FILE ...` adds theirs. Runs go on from their checkpoints if FOLDER
is still there. A run may take twice its guess; then it is cut short, so that those after it have their turn.
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

from pauserec.compare.runs import compare
from pauserec.errors import PauserecError
from pauserec.evaluation.metrics import METRICS
from pauserec.results.finished import METRICS_FILE
from pauserec.results.ledger import ancestry
from pauserec.results.testing import COST
from pauserec.runs.files import MANIFEST, read_json, write_atomically

RESERVE = 15.0
"""Seconds kept back for writing the last files; of a small budget, a tenth."""
SUMMARY = 150.0
"""Seconds of a run kept back for ranking by the other rule and for its summary; of little time, a quarter."""
LOG_TAIL = 2000
"""Characters of a failed run's log that come back."""
COUNTED = ("popularity", "co-occurrence")
GUESS_FACTOR = 2.0
"""How many times its guess a run may take."""


class Rows:
    """rows.json: rows, runs that failed and why."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {**header(), "rows": [], "not_done": {}}
        if path.exists():
            self.merge(json.loads(path.read_text()))

    def merge(self, other: dict[str, Any]) -> None:
        """Take over what another session measured."""
        about = {key: other[key] for key in ("hardware", "commit", "date")}
        self._take([about | row for row in other["rows"]])

    def done(self, entry: Entry) -> bool:
        """Whether a run was tested, by both rules for seen items."""
        rows = [row for row in self.content["rows"] if row["run"] == entry.key and not row.get("partial")]
        return {row["seen"] for row in rows} == {"keep", "drop"}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add rows of a run."""
        self._take(rows)
        self.save()

    def _take(self, rows: list[dict[str, Any]]) -> None:
        """A row that stands here already stays, but for one of a run cut short; counted baselines stand once."""
        known = {_key(row): row for row in self.content["rows"]}
        for row in rows:
            if _key(row) not in known or (known[_key(row)].get("partial") and not row.get("partial")):
                known[_key(row)] = row
        self.content["rows"] = list(known.values())

    def give_up(self, entry: Entry, why: str) -> None:
        """Remember that a run was not done."""
        print(f"{entry.key}: {why}", flush=True)
        self.content["not_done"][entry.key] = why
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        done = {row["run"] for row in self.content["rows"]}
        self.content["not_done"] = {run: why for run, why in self.content["not_done"].items() if run not in done}
        write_atomically(self.path, json.dumps(self.content, indent=1).encode())

    def table(self) -> str:
        """All rows as a Markdown table."""
        heads = ["data", "method", "run", "seed", "seen", "chosen by", *METRICS, "train s", "ms/user"]
        lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for row in self.content["rows"]:
            cells = [row[key] for key in ("data", "method", "run", "seed", "seen", "selected_by")]
            cells += [f"{row[m]:.4f}" for m in METRICS]
            lines.append(
                "| " + " | ".join(map(str, [*cells, f"{row['train_seconds']:.0f}", f"{row['ms_per_user']:.2f}"])) + " |"
            )
        return "\n".join(lines)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    counted = row["method"] in COUNTED
    return row["data"], row["method"], row["seen"], *((None, None) if counted else (row["seed"], row["run"]))


def start(entry: Entry, prepared: Path, work: Path) -> Path:
    """The folder whose finished steps a run takes over: that of another run, or the prepared one. Writes its recipe."""
    source = work / entry.start if entry.start else prepared / identity(entry.load())
    if entry.start and not (source / "result.json").exists():
        raise FileNotFoundError(f"it goes on from {entry.start}, which is not finished in {work}")
    if not source.exists():
        raise FileNotFoundError(f"{source} is missing: run prepare.py for this list of rows")
    write_atomically(work / f"{entry.key}.toml", entry.load().dump().encode())
    return source


def training_limit(left: float, minutes: float) -> float:
    """Seconds a run may train and test, of those left: its patience, and what the summary needs stays."""
    return max(1.0, min(left - min(SUMMARY, left / 4), GUESS_FACTOR * 60 * minutes))


def train(folder: Path, source: Path, seconds: float) -> str | None:
    """Run the recipe, taking over what `source` has; gives what went wrong."""
    command = [sys.executable, "-m", "pauserec", "run", f"{folder}.toml", "--out", str(folder), "--reuse", str(source)]
    try:
        with folder.with_suffix(".log").open("w") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=seconds, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        return f"cut short after {seconds:.0f} s"
    if not code:
        return None
    said = folder.with_suffix(".log").read_text(errors="replace")
    return f"failed with exit code {code}: ...{said[-LOG_TAIL:]}"


def ranked_again(folder: Path, seen: str, seconds: float) -> dict[str, Any]:
    """The run's models by the other rule for seen items, in a process of its own: what takes too long is ended."""
    command = [sys.executable, "-m", "pauserec", "compare", str(folder), "--seen", seen, "--format", "json"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, timeout=max(seconds, 1.0), check=True).stdout
    return json.loads(printed)


def summaries(entry: Entry, folder: Path, found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every model of a finished run, by one rule for seen items."""
    result = json.loads((folder / "result.json").read_text())
    cost = {name: {key: stage.get(key) for key in COST} for name, stage in result["stages"].items()}
    about = {"data": entry.data, "run": entry.key, "seed": entry.seed, "selected_by": result["seen"], "stages": cost}
    kept = ("ci95", "train_seconds", "ms_per_user", "slices")
    return [
        about
        | {"method": entry.methods.get(row["model"], row["model"]), "seen": found["seen"], **row["metrics"]}
        | {key: row[key] for key in kept}
        for row in found["rows"]
    ]


def tested(entry: Entry, folder: Path) -> list[dict[str, Any]]:
    """Rows of what an unfinished run tested already, by its own rule, marked as partial: finished, it tests them anew."""
    recipe = entry.load()
    stages = {part.name: _summary(folder / part.name) for part in (*recipe.stages, *recipe.baselines)}
    finished = {name: summary for name, summary in stages.items() if summary}
    found = {name: read_json(folder / f"test-{name}" / METRICS_FILE) for name in recipe.rows}
    seen = recipe.evaluation.seen
    about = {"data": entry.data, "run": entry.key, "seed": entry.seed, "selected_by": seen, "seen": seen, "slices": {}}
    about["stages"] = {name: {key: summary.get(key) for key in COST} for name, summary in finished.items()}

    def seconds(name: str) -> float:
        """Of training, or of counting."""
        if name in recipe.evaluation.baselines:
            return _summary(folder / f"test-{name}")["fit_seconds"]
        stage_of = {model.name: model.stage for model in recipe.evaluation.models}
        behind = ancestry(recipe, stage_of[name]) if name in stage_of else [name]
        return sum(finished[stage]["seconds"] for stage in behind)

    return [
        about
        | {"method": entry.methods.get(name, name), **{key: row["test"][key] for key in (*METRICS, "ci95")}}
        | {"train_seconds": seconds(name), "ms_per_user": row["decoding"]["ms_per_user"], "partial": True}
        for name, row in found.items()
        if row
    ]


def _summary(step: Path) -> dict[str, Any]:
    """What a finished step says of itself; nothing of another."""
    return read_json(step / MANIFEST).get("summary") or {}


def do(entry: Entry, rows: Rows, options: argparse.Namespace, deadline: float) -> None:
    """One run: train, test by its own rule for seen items, then by the other. Whatever fails is noted."""
    began = time.monotonic()
    try:
        folder, source = options.work / entry.key, start(entry, options.prepared, options.work)
        failed = train(folder, source, training_limit(deadline - time.monotonic(), entry.minutes))
        if failed:
            rows.add(tested(entry, folder))
            rows.give_up(entry, failed)
            return
        native = compare([folder]).as_json()
        rows.add(summaries(entry, folder, native))
        other = {"keep": "drop", "drop": "keep"}[native["seen"]]
        rows.add(summaries(entry, folder, ranked_again(folder, other, deadline - time.monotonic())))
    except (OSError, KeyError, ValueError, subprocess.SubprocessError, PauserecError) as error:
        rows.give_up(entry, f"{type(error).__name__}: {error}")
    else:
        print(f"{entry.key}: {time.monotonic() - began:.0f} s", flush=True)
    finally:
        for log in (options.work / f"{entry.key}.log", options.work / entry.key / "log.jsonl"):
            if log.exists():
                shutil.copy(log, options.out / f"{entry.key}{log.suffix}")


def packed(folder: Path) -> Path:
    """One archive of everything that was written here, beside it: few files can be copied back from some machines."""
    return Path(shutil.make_archive(str(folder.with_name(f"{folder.name}-results")), "gztar", folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True, help="seconds for everything")
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_name("rows.toml"))
    parser.add_argument(
        "--work", type=Path, default=Path("build/gpu-runs"), help="run folders, which can be gone on with"
    )
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="rows.json of other sessions")
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget - min(RESERVE, options.budget / 10)
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(options.out / "rows.json")
    for path in options.merge:
        rows.merge(json.loads(path.read_text()))
    for entry in read(options.rows):
        left = deadline - time.monotonic()
        if rows.done(entry):
            continue
        if entry.minutes * 60 > left and not (options.work / entry.key).exists():
            rows.give_up(entry, f"needs about {entry.minutes} minutes, {max(left, 0) / 60:.1f} are left")
            continue
        do(entry, rows, options, deadline)
    rows.save()
    table = rows.table()
    (options.out / "rows.md").write_text(table + "\n")
    print(table)
    print(packed(options.out))


if __name__ == "__main__":
    main()
