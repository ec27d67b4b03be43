"""RecTools' SASRec on an exported split, in RecTools' own environment: benchmarks/baselines.py starts it.

    PYTHON benchmarks/rectools_sasrec.py --data FOLDER --users FILE --budget SECONDS [settings]

FOLDER holds what `pauserec data export --format rectools` wrote; FILE lists the validation users, one a line. After each
epoch it prints one JSON line: seconds since training began, and NDCG@10 on those users, items they have seen dropped.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--users", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="keyword arguments of SASRecModel, as JSON")
    options = parser.parse_args()
    torch.manual_seed(0)
    events = pd.read_parquet(options.data / "interactions.parquet")
    data = Dataset.construct(events[events["split"] == "train"][["user_id", "item_id", "weight", "datetime"]])
    held_out = events[events["split"] == "validation"]
    targets = dict(zip(held_out["user_id"], held_out["item_id"], strict=True))
    users = options.users.read_text().split("\n")
    model: Any = SASRecModel(**options.settings)
    began, epoch = time.time(), 0
    while time.time() - began < options.budget:
        model.fit_partial(data, min_epochs=1, max_epochs=1)
        epoch += 1
        trained = time.time() - began
        found = model.recommend(users, data, k=10, filter_viewed=True, on_unsupported_targets="ignore")
        hit = found[found["item_id"] == found["user_id"].map(targets)]
        ndcg = sum(1 / math.log2(rank + 1) for rank in hit["rank"]) / len(users)
        line = {"epoch": epoch, "trained_seconds": trained, "seconds": time.time() - began, "ndcg@10": ndcg}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
