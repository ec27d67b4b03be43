"""What a training step costs before any arithmetic: operators, host time, synchronisations, compilations; and a CPU's pace.

    python benchmarks/steps.py [--parts host,operators,gradients,syncs,compilations,base,cpu] [--against 242313b] [--save]

Counted on a CPU, on the code path that a GPU takes: rows of one length, compiled layers, masks from arrays, attention as one
operator. The batch has the settings of `amazon-all` (implicit SFT on IDs alone: every target a branch, with four pauses) on a
made log of short histories. `cpu` trains and tests a part of the quickstart with this tree and an earlier commit, in turns.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import arguments, report
from steps_parts import Bench, base_seconds, compilations, gradients, operators, synchronisations

ROOT = Path(__file__).parent.parent
BATCHES = 20
"""Batches that are made for a median."""
QUICK = {
    "stages.cpt.epochs": "0.05",
    "stages.sft.epochs": "0.25",
    "stages.pause_pretrain.epochs": "0.02",
    "stages.implicit_sft.epochs": "0.05",
    "stages.sft.validation_users": "20",
    "stages.implicit_sft.validation_users": "20",
}
"""The part of the quickstart that both sides run."""
BEFORE = ("sentence-transformers", "scikit-learn", "joblib", "threadpoolctl", "cloudpickle", "narwhals")
"""Packages that the earlier commit needs and this one does not."""


def host_ms(bench: Bench) -> dict[str, Any]:
    """Milliseconds to make a batch: samples, collate, places of targets, arrays; all of it on one thread."""
    found: dict[str, Any] = {}
    for name, tokens in (("8k", 8192), ("32k", 32_768)):
        rows = bench.rows(tokens)
        times = []
        for number in range(BATCHES + 2):
            begin = time.perf_counter()
            rows[number % len(rows)]
            times.append(1e3 * (time.perf_counter() - begin))
        found[f"host_ms_{name}_tokens"] = round(statistics.median(times[2:]), 3)
    batch = bench.batch(8192)
    marks = batch["layout"]
    found["batch"] = {
        "tokens": len(batch["tokens"]),
        "documents": int(marks[0].max()),  # the last is padding
        "branches": len(np.unique(marks[:2][:, marks[1] >= 0], axis=1).T),
        "targets": batch["count"],
    }
    return found


def against(commit: str, rounds: int) -> dict[str, Any]:
    """Training seconds and milliseconds a ranked user of a part of the quickstart: this tree over an earlier commit."""
    times: dict[str, dict[str, list[float]]] = {side: {"train": [], "decode": []} for side in ("now", "before")}
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "before"
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), commit], check=True)
        try:
            recipe, packages = tree / "src" / "pauserec" / "recipes" / "quickstart.toml", Path(place) / "packages"
            install = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(packages),
                *BEFORE,
            ]
            subprocess.run(install, check=True)
            for number in range(rounds):
                for side, paths in (("now", [ROOT / "src"]), ("before", [tree / "src", packages])):
                    run = _quickstart(recipe, paths, Path(place) / f"{side}-{number}")
                    for kind, seconds in run.items():
                        times[side][kind].append(seconds)
                    print(json.dumps({side: run}), file=sys.stderr, flush=True)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=True)
    found = {
        f"cpu_{kind}_ratio": round(statistics.median(times["now"][kind]) / statistics.median(times["before"][kind]), 3)
        for kind in ("train", "decode")
    }
    return {**found, "cpu_times": times, "against": commit}


def _quickstart(recipe: Path, paths: list[Path], out: Path) -> dict[str, float]:
    sets = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "pauserec", "run", str(recipe), "--out", str(out), *sets]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    with (out.with_suffix(".log")).open("wb") as log:
        done = subprocess.run(command, cwd=out.parent, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise RuntimeError(out.with_suffix(".log").read_text()[-2000:])
    result = json.loads((out / "result.json").read_bytes())
    trained = [stage["training_seconds"] for stage in result["stages"].values()]
    ranked = [row["decoding"]["ms_per_user"] for row in result["models"].values() if row["decoding"].get("beams")]
    return {"train": round(sum(trained), 3), "decode": round(statistics.mean(ranked), 4)}


def main() -> None:
    """Measure the parts that are asked for."""
    parser = arguments(__doc__)
    parser.add_argument("--parts", default="host,operators,gradients,syncs,compilations,base,cpu")
    parser.add_argument("--against", default="242313b", help="the earlier commit")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place))
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "host": partial(host_ms, bench),
            "operators": partial(operators, bench),
            "gradients": partial(gradients, bench),
            "syncs": partial(synchronisations, bench),
            "compilations": partial(compilations, bench),
            "base": partial(base_seconds, bench),
            "cpu": partial(against, options.against, options.rounds),
        }
        for name in options.parts.split(","):
            part = parts[name]()
            print(json.dumps({name: part}), file=sys.stderr, flush=True)
            found |= part
    report("steps", found, options.save)


if __name__ == "__main__":
    main()
