"""RQ-KMeans over the items of a run: CPU seconds of the whole step after embedding.

    python benchmarks/quantize.py RUN [--rounds 3] [--save]

RUN is a run folder with vectors. Each round makes the IDs twice, in processes of their own: with the matrix kernels that
pauserec chooses for faiss, and with those that the OpenBLAS in faiss' wheel chooses by itself.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import arguments, report

from pauserec.config import QuantizerConfig
from pauserec.semantic_ids import QUANTIZERS


@dataclass(frozen=True)
class Finished:
    """A step of the run, as the quantizer reads it."""

    path: Path
    fingerprint: str = ""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="make the IDs here and print the CPU seconds")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(once(options.run)))
        return
    plain = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    sides = {"pauserec": plain, "wheel's own kernels": plain | {"OPENBLAS_CORETYPE": ""}}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, environment in sides.items():
            command = [sys.executable, __file__, str(options.run), "--once"]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    seconds = {name: statistics.median(row["cpu_seconds"] for row in rows) for name, rows in found.items()}
    content = {
        **{key: value for key, value in found["pauserec"][0].items() if key != "cpu_seconds"},
        "cpu_seconds_median": seconds,
        "times_faster": round(seconds["wheel's own kernels"] / seconds["pauserec"], 2),
        "rounds": options.rounds,
    }
    report("quantize", content, options.save)


def once(run: Path) -> dict[str, Any]:
    """CPU seconds of one step with the default settings, beside what it made."""
    config = QuantizerConfig(kind="rqkmeans")
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        made = QUANTIZERS["rqkmeans"](
            config, Finished(run / "vectors"), Finished(run / "dataset"), out=Path(folder), log=lambda **_: None
        )
        seconds = time.process_time() - start
    return {"cpu_seconds": round(seconds, 2), "codebook_sizes": list(config.codebook_sizes), **made}


if __name__ == "__main__":
    main()
