"""SASRec on a data set: time to its best validation score, time to rank everybody, and RecTools' SASRec beside it.

    python benchmarks/baselines.py --data PATH [--rectools PYTHON] [--budget 900] [--work FOLDER] [--save]

PATH is Amazon Beauty. PYTHON is an interpreter with RecTools (docs/compare-with-rectools.md); it trains models of the same
size on the same split for `--budget` seconds each, one with its default loss (a softmax over all items), one with a softmax
over sampled items, as ours has. Each is timed against ours to the best score that both reach; what counts is the ratio with
the loss that serves RecTools best. Seconds include validation, after each epoch, on the same 5,000 users.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import arguments, report

from pauserec.config import Recipe
from pauserec.data.dataset import load_dataset
from pauserec.evaluation.validation import METRIC, validation_users

RECIPE, NAME = "baselines/sasrec", "sasrec"
LOSSES: dict[str, dict[str, Any]] = {"softmax": {}, "sampled_softmax": {"n_negatives": 256}}
"""RecTools' losses: items are drawn for each place, where ours are shared by a batch, so fewer are drawn."""


def ours(data: Path, folder: Path) -> dict[str, Any]:
    """Run the shipped recipe."""
    command = [sys.executable, "-m", "pauserec", "run", RECIPE, "--set", f"data.source={data}", "--out", str(folder)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["step"] == NAME]
    done = next(line for line in trained if line.get("event") == "done")
    began = done["time"] - done["seconds"]
    curve = [(line["time"] - began, line[METRIC]) for line in trained if METRIC in line]
    result = json.loads((folder / "result.json").read_text())
    model = result["models"][NAME]
    return {
        "curve": [(round(seconds, 1), round(value, 5)) for seconds, value in curve],
        "seconds_to_best": round(max(curve, key=lambda point: point[1])[0], 1),
        "ranking_seconds": round(model["decoding"]["ms_per_user"] * result["data"]["users"] / 1e3, 2),
        "best_validation_ndcg@10": round(max(value for _, value in curve), 5),
        "test": {key: round(model["test"][key], 5) for key in ("hit@10", "ndcg@10")},
        "data": result["data"],
    }


def export(run: Path, folder: Path) -> Path:
    """What RecTools needs of a run: its split, and who validates. Gives the file of validation users."""
    settings = next(baseline for baseline in Recipe.load(RECIPE).baselines if baseline.name == NAME)
    dataset = load_dataset(run / "dataset")
    users = folder / "users.txt"
    users.write_text("\n".join(dataset.users[user] for user in validation_users(len(dataset.users), settings)))
    command = [sys.executable, "-m", "pauserec", "data", "export", str(run), str(folder), "--format", "rectools"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return users


def theirs(python: Path, folder: Path, users: Path, loss: str, budget: float) -> dict[str, Any]:
    """Train RecTools' SASRec on the exported split, with its own default batch."""
    settings = next(baseline for baseline in Recipe.load(RECIPE).baselines if baseline.name == NAME)
    chosen = {
        "n_blocks": settings.layers,
        "n_heads": settings.heads,
        "n_factors": settings.width,
        "dropout_rate": settings.dropout,
        "session_max_len": settings.history_length,
        "lr": settings.learning_rate,
        "loss": loss,
        **LOSSES[loss],
    }
    script = [str(python), str(Path(__file__).with_name("rectools_sasrec.py"))]
    script += ["--data", str(folder), "--users", str(users), "--budget", str(budget), "--settings", json.dumps(chosen)]
    lines = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    epochs = [json.loads(line) for line in lines if line.startswith('{"epoch"')]
    return {
        "settings": chosen,
        "curve": [(round(epoch["seconds"], 1), round(epoch["ndcg@10"], 5)) for epoch in epochs],
        "best_validation_ndcg@10": round(max(epoch["ndcg@10"] for epoch in epochs), 5),
    }


def reached(curve: list[tuple[float, float]], score: float) -> float:
    """Seconds until the score stood."""
    return next(seconds for seconds, value in curve if value >= score)


def against(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The other side with its ratio: our seconds over its, to the best score that both reach."""
    score = min(mine["best_validation_ndcg@10"], other["best_validation_ndcg@10"])
    times = reached(mine["curve"], score), reached(other["curve"], score)
    return {**other, "compared_at_ndcg": score, "time_ratio": round(times[0] / times[1], 3)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rectools", type=Path, help="a Python interpreter that has RecTools")
    parser.add_argument("--budget", type=float, default=900.0, help="seconds of training for RecTools")
    parser.add_argument("--work", type=Path, help="keep the run here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.work or Path(place)
        folder.mkdir(exist_ok=True)
        mine = ours(options.data, folder / "run")
        content: dict[str, Any] = {
            "data": mine.pop("data"),
            "sasrec_beauty_minutes": round(mine["seconds_to_best"] / 60, 2),
            "sasrec_ranking_seconds": mine["ranking_seconds"],
            "validation_ndcg_ours": mine["best_validation_ndcg@10"],
            "ours": mine,
        }
        if options.rectools:
            (folder / "rectools").mkdir(exist_ok=True)
            users = export(folder / "run", folder / "rectools")
            others = {
                loss: against(mine, theirs(options.rectools, folder / "rectools", users, loss, options.budget))
                for loss in LOSSES
            }
            content |= {
                "time_ratio_vs_rectools": max(other["time_ratio"] for other in others.values()),
                "validation_ndcg_rectools": max(other["best_validation_ndcg@10"] for other in others.values()),
                "rectools": others,
            }
    report("baselines", content, options.save)


if __name__ == "__main__":
    main()
