"""`pauserec fit` on four data sets of different shape: what it reaches, the time it takes, the folder, the second day.

    python benchmarks/own.py [--sets shop,thin:3,ml-100k,wide] [--minutes 30] [--work FOLDER] [--save]

Each set is fitted by the command line, in a process of its own. A set of `--days` is fitted without the latest tenth of its
events, and then updated with it in a sixth of the minutes. A part that is finished stands in `--work` and is not done again, so
that the whole can be made in several goes. Numbers are of the test split; rows are chosen on validation.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from measure import arguments, report
from shops import SHOPS, make, split_days

from pauserec.assets import named
from pauserec.config import Recipe
from pauserec.data.dataset import load_dataset
from pauserec.evaluation.metrics import per_user
from pauserec.evaluation.ranks import ranks_of, read_ranks

NDCG = "ndcg@10"
WORST = ("budget", "folder")
COUNTED = ("popularity", "co-occurrence", "sasrec", "before")
DAY_SHARE = 0.1


def files(name: str, work: Path) -> tuple[Path, Path | None]:
    """Events and items of a set."""
    folder = work / "data" / name
    if name in SHOPS:
        made = folder / "events.csv", folder / "items.csv"
        return made if made[1].exists() else make(SHOPS[name], folder)
    source = named.dataset(name)
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    return next(folder.glob("interactions.*")), next(iter(folder.glob("items.*")), None)


def timed(*command: str | Path) -> float:
    """Seconds of a command of ours. Raises CalledProcessError."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pauserec", *map(str, command)], check=True)
    return time.perf_counter() - begin


def fitted(name: str, minutes: float, seed: int, work: Path, *, without_latest: bool) -> dict[str, Any]:
    """A set's first fit."""
    events, items = files(name, work)
    if without_latest:
        events, _ = split_days(events, DAY_SHARE)
    out = work / f"{name}-{seed}"
    took = timed(
        "fit", events, *([items] if items else []), "--out", out, "--minutes", f"{minutes:g}", "--seed", str(seed)
    )
    return result(out) | {"minutes": round(took / 60, 2), "budget_ratio": round(took / 60 / minutes, 3)}


def result(out: Path) -> dict[str, Any]:
    """What a run reached, and its size."""
    content = orjson.loads((out / "result.json").read_bytes())
    rows = {
        name: {split: round(row[split][NDCG], 4) for split in ("validation", "test")}
        for name, row in content["models"].items()
    }
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    layers = (content["model"] or {}).get("layers")
    data = {key: content["data"][key] for key in ("users", "items", "interactions")}
    return {
        "data": data,
        "layers": layers,
        "rows": rows,
        "best": content["best"],
        "notes": content["notes"],
        "left_out": [line for line in (out / "fit.toml").read_text().splitlines() if line.startswith("# Left out")],
        "folder_mb": round(size / 1e6, 1),
    }


def second_day(name: str, work: Path, first_minutes: float) -> dict[str, Any]:
    """The update of a set's first fit with its latest events, tested on the new day's events alone."""
    _, items = files(name, work)
    since, out = work / "data" / name / "since.csv", work / f"{name}-updated"
    took = timed("fit", since, *([items] if items else []), "--update", work / f"{name}-0", "--out", out) / 60
    content = orjson.loads((out / "result.json").read_bytes())
    dataset = load_dataset(out / "dataset")
    day = {line.partition(",")[0] for line in since.read_text().splitlines()[1:]}
    frame = read_ranks(out / "ranks.parquet")
    users = frame.filter((frame["model"] == "before") & (frame["split"] == "test"))["user_id"].to_list()
    new = [place for place, user in enumerate(users) if user in day]
    rows = [row.name for row in Recipe.load(out / "recipe.toml").evaluation.models]
    scores = {row: float(per_user(ranks_of(frame, row, "test"))[new, 3].mean()) for row in rows}
    after = next(row for row in rows if row != "before")
    return {
        "first_minutes": first_minutes,
        "minutes": round(took, 2),
        "time_ratio": round(took / first_minutes, 3),
        "new_users_tested": len(new),
        "items": len(dataset.items),
        "before": round(scores["before"], 4),
        "after": round(scores[after], 4),
        "gain": round(scores[after] / max(scores["before"], 1e-9), 3),
        "best": content["best"],
    }


def numbers(sets: dict[str, Any], days: dict[str, Any]) -> dict[str, float]:
    """The list that the whole is held to: means over seeds, of the worst set; time and size at their worst."""
    found: dict[str, list[float]] = {}
    for entries in sets.values():
        by_seed = [_numbers_of(entry) for entry in entries]
        for name in by_seed[0]:
            values = [each[name] for each in by_seed if name in each]
            found.setdefault(name, []).extend(values if name.startswith(WORST) else [sum(values) / len(values)])
    for day in days.values():
        found.setdefault("update_time_ratio", []).append(day["time_ratio"])
        found.setdefault("update_gain", []).append(day["gain"])
    lowest = ("_min", "_gain")
    return {name: round((min if name.endswith(lowest) else max)(values), 3) for name, values in found.items()}


def _numbers_of(each: dict[str, Any]) -> dict[str, float]:
    """Of one run; the language model that stands for it is the best on validation."""
    test = {name: row["test"] for name, row in each["rows"].items()}
    models = {name: row["validation"] for name, row in each["rows"].items() if name not in COUNTED}
    counted, ratio = test["co-occurrence"], each["budget_ratio"]
    found = {"best_over_cooccurrence_min": test[each["best"]] / counted}
    found |= {"budget_ratio_max": ratio, "budget_ratio_min": ratio}
    if not models:
        return found
    model = test[max(models, key=lambda name: models[name])]
    found["llm_over_cooccurrence_min"] = model / counted
    if counted > 1.5 * test["popularity"]:
        found["llm_over_popularity_min"] = model / test["popularity"]
    if "pauserec" in test:
        found["pause_over_sft_min"] = test["pauserec"] / test["sft"]
    if each["layers"] == 2 and each["data"]["items"] < 5_000:
        found["folder_mb"] = each["folder_mb"]
    return found


def kept(path: Path, make_it: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part's result, made unless its file stands there."""
    if not path.exists():
        path.write_bytes(orjson.dumps(make_it(), option=orjson.OPT_INDENT_2))
    return dict(orjson.loads(path.read_bytes()))


def main() -> None:
    """Run the parts that are not there yet, then print and keep all."""
    parser = arguments(__doc__)
    parser.add_argument("--sets", default="shop,thin:3,ml-100k,wide", help="sets, some with a number of seeds")
    parser.add_argument("--days", default="shop,thin", help="sets that get a second day")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "pauserec-own")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    sets: dict[str, Any] = {}
    days: dict[str, Any] = {}
    for name, _, seeds in (part.partition(":") for part in filter(None, given.sets.split(","))):
        later = name in given.days.split(",")
        for seed in range(int(seeds or 1)):
            make_it = partial(fitted, name, given.minutes, seed, given.work, without_latest=later)
            sets.setdefault(name, []).append(kept(given.work / f"{name}-{seed}.json", make_it))
        if later:
            again = partial(second_day, name, given.work, sets[name][0]["minutes"])
            days[name] = kept(given.work / f"{name}-day.json", again)
    content = {"minutes": given.minutes, **numbers(sets, days), "sets": sets, "second_day": days}
    report("own", content, given.save)


if __name__ == "__main__":
    main()
