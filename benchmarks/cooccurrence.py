"""The settings of co-occurrence, searched on validation data: one setting at a time, until none helps, from two starts.

    python benchmarks/cooccurrence.py RUN [RUN ...] [--seen drop] [--save]

RUN is any run folder with a finished dataset step; with several, the mean of their validation NDCG@10 decides. Test data
is looked at once the search is over.
"""

from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from measure import arguments, report

from pauserec.baselines.counts import Cooccurrence
from pauserec.config import CooccurrenceSettings
from pauserec.data.dataset import load_dataset
from pauserec.errors import PauserecError
from pauserec.evaluation.evaluate import evaluate
from pauserec.records import Split

REFERENCE = CooccurrenceSettings(window=5, distance_decay=0.8, backward=0.3, last=20, decay=0.8)
"""Settings that reproduce others' numbers: the first start."""
SYMMETRIC = REFERENCE.model_copy(update={"distance_decay": 1.0, "backward": 1.0})
"""The second: plain counts."""
GRID: dict[str, tuple[float, ...]] = {
    "decay": (0.5, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0),
    "window": (2, 3, 5, 10, 20),
    "distance_decay": (0.5, 0.65, 0.8, 0.85, 0.9, 1.0),
    "backward": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0),
    "last": (5, 10, 20, 50),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seen", choices=["drop", "keep"], default="drop")
    options = parser.parse_args()
    try:
        datasets = {run.name: load_dataset(run / "dataset") for run in options.runs}
    except PauserecError as error:
        parser.error(str(error))

    @cache
    def metrics(name: str, settings: CooccurrenceSettings, split: Split) -> dict[str, float]:
        model = Cooccurrence.fit(datasets[name], settings)
        found = evaluate(model, datasets[name], split, seen=options.seen, top_k=10, bootstrap=1).metrics
        return {key: round(found[key], 4) for key in ("hit@10", "ndcg@10")}

    def score(settings: CooccurrenceSettings) -> float:
        return mean(metrics(name, settings, "validation")["ndcg@10"] for name in datasets)

    search: list[dict[str, Any]] = []

    def climb(best: CooccurrenceSettings) -> CooccurrenceSettings:
        while True:
            before = best
            for name, values in GRID.items():
                tried = [best.model_copy(update={name: value}) for value in values]
                best = max([best, *tried], key=score)
                search.append({"setting": name, **{str(getattr(one, name)): round(score(one), 5) for one in tried}})
            if best == before:
                return best

    best = max((climb(start) for start in (REFERENCE, SYMMETRIC)), key=score)
    found: dict[str, Any] = {"seen": options.seen}
    for role, settings in (("reference", REFERENCE), ("chosen", best)):
        scores = {
            name: {split: metrics(name, settings, split) for split in ("validation", "test")} for name in datasets
        }
        found[role] = {"settings": settings.model_dump(), **scores}
    report("cooccurrence", {**found, "validation_ndcg@10": search}, options.save)


if __name__ == "__main__":
    main()
