"""The settings of co-occurrence, searched on validation data: one setting at a time, until none helps.

    python benchmarks/cooccurrence.py RUN [--seen drop] [--save]

RUN is any run folder with a finished dataset step. Test data is looked at twice, at the end: for the defaults and for
the settings that were found.
"""

from functools import cache
from pathlib import Path
from typing import Any

from measure import arguments, report

from pauserec.baselines.cooccurrence import Cooccurrence, CooccurrenceSettings
from pauserec.data.splits import load_dataset
from pauserec.evaluation.evaluate import evaluate
from pauserec.records import Split

GRID: dict[str, tuple[float, ...]] = {
    "decay": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "window": (2, 3, 5, 10, 20),
    "distance_decay": (0.5, 0.65, 0.8, 0.9, 1.0),
    "backward": (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
    "last": (5, 10, 20, 50),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seen", choices=["drop", "keep"], default="drop")
    options = parser.parse_args()
    dataset = load_dataset(options.run / "dataset")

    @cache
    def metrics(settings: CooccurrenceSettings, split: Split) -> dict[str, float]:
        model = Cooccurrence.fit(dataset, settings)
        found = evaluate(model, dataset, split, seen=options.seen, top_k=10, bootstrap=1).metrics
        return {name: round(found[name], 4) for name in ("hit@10", "ndcg@10")}

    best, steps = CooccurrenceSettings(), []
    changed = True
    while changed:
        changed = False
        for name, values in GRID.items():
            tried = [best.model_copy(update={name: value}) for value in values]
            top = max([best, *tried], key=lambda settings: metrics(settings, "validation")["ndcg@10"])
            steps.append({"setting": name, **{str(getattr(one, name)): metrics(one, "validation") for one in tried}})
            changed |= top != best
            best = top
    found: dict[str, Any] = {"data": options.run.name, "seen": options.seen, "users": len(dataset.users)}
    for name, settings in (("default", CooccurrenceSettings()), ("chosen", best)):
        scores = {split: metrics(settings, split) for split in ("validation", "test")}
        found[name] = {"settings": settings.model_dump(), **scores}
    report("cooccurrence", {**found, "search": steps}, options.save)


if __name__ == "__main__":
    main()
