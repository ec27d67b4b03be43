"""Raw files to data sets: time, memory and growth; the same data sets as the reader before; fuzzing; IDs of large catalogues.

    python benchmarks/data.py [--shared FOLDER] [--fuzz 100000] [--most 10000000] [--save]

Files are made by the script: events of a Zipf law in CSV and JSON lines. Every preparation runs in a process of its own, whose
peak memory counts. `growth` is the factor of time per tenfold of events from 1e5 to `most`. A fingerprint that changed is named
with its reason: it must be the old one again where no word stands for "no value" (`data.missing = [""]`).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from measure import SIZES, arguments, report

from pauserec.config import DataConfig
from pauserec.data.check import check
from pauserec.data.dataset import prepare
from pauserec.errors import DataError
from pauserec.records import FloatArray
from pauserec.semantic_ids.assign import add_digit
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.rqkmeans import residual_kmeans

KNOWN = {
    "amazon2014_beauty": "4f719512c0ca5331",
    "amazon2014_toys": "285157b16b8dbdd9",
    "ml-100k": "ffa1b73aeb628f4f",
    "ml-1m": "62eea7af7a615fb5",
}
"""Beginnings of the fingerprints that the reader before (commit b34e341), row by row, gave."""


def made(folder: Path, events: int, form: str) -> Path:
    """A log whose users and items follow a Zipf law."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user_id": rng.zipf(1.3, events) % (events // 20 + 10),
            "item_id": rng.zipf(1.2, events) % (events // 100 + 50),
            "timestamp": 1_500_000_000 + rng.integers(0, 100_000_000, events),
        }
    ).with_columns(pl.format("user{}", "user_id").alias("user_id"), pl.format("item{}", "item_id").alias("item_id"))
    path = folder / f"events-{events}.{form}"
    frame.write_csv(path) if form == "csv" else frame.write_ndjson(path)
    return path


def one(path: str) -> None:
    """What a process of its own does: prepare a file, print seconds and peak memory."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        summary = prepare(DataConfig(interactions=path), out=Path(out), log=lambda **_: None)
    seconds = time.perf_counter() - start
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(
        json.dumps(
            {"seconds": round(seconds, 2), "peak_gb": round(peak / 1e6, 2), "interactions": summary["interactions"]}
        )
    )


def _alone(path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def sizes(folder: Path, most: int) -> dict[str, Any]:
    """Seconds and memory by number of events."""
    found: dict[str, Any] = {}
    steps = [10**n for n in range(5, len(str(most)))]
    for events, form in [*((number, "csv") for number in steps), (min(most, 10**6), "jsonl")]:
        path = made(folder, events, form)
        runs = 3 if events < 10**7 else 1
        results = [_alone(path) for _ in range(runs)]
        found[f"{form}_1e{len(str(events)) - 1}"] = min(results, key=lambda result: result["seconds"])
        path.unlink()
    first, last = found["csv_1e5"], found[f"csv_1e{len(str(most)) - 1}"]
    tens = len(steps) - 1
    found["growth"] = round((last["seconds"] / first["seconds"]) ** (1 / max(1, tens)), 2)
    return found


def fingerprints(shared: Path) -> dict[str, Any]:
    """Whether the data sets are those of the reader before, and why not where not."""
    found: dict[str, Any] = {}
    for name, known in KNOWN.items():
        if not (shared / name).exists():
            found[name] = f"{shared / name} is not there"
            continue
        prints = []
        for words in (DataConfig().missing, ("",)):
            with tempfile.TemporaryDirectory() as out:
                config = DataConfig(source=str(shared / name), missing=words)
                summary = prepare(config, out=Path(out), log=lambda **_: None)
                repairs = json.loads((Path(out) / "report.json").read_bytes())["items_file"]["repairs"]
            prints.append(summary["fingerprint"][:16] == known)
            if len(prints) == 1:
                reason = {text: number for text, number in repairs.items() if text.startswith("no value")}
        found[name] = {"same": prints[0], "same_without_words": prints[1], "reason": reason if not prints[0] else {}}
    return found


PIECES = ["1600000000", "2020-01-01", '""', '\\"', "\r\n", "NA", "&amp;", "<b>", *"uab12,,;{}[]:' \t\n\n\0é", '"']
HEADERS = ["user_id,item_id,timestamp\n", "user_id\titem_id\ttimestamp\torder\n", "item_id,title,categories\n", ""]
KEYS = ["user_id", "item_id", "timestamp", "order", "title", "categories", "parent_asin"]
VALUES: list[Any] = ["u", "a", 1, 1.0, None, True, [], ["x"], {"y": 1}, "NA", 1600000000, 2**70, "2020-01-01", "\ud800"]


def fuzz(files: int) -> dict[str, int]:
    """Random files of every kind: errors that are no DataError, and rows that are not accounted for."""
    rng = np.random.default_rng(1)
    untyped = unaccounted = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(files // 2):
            paths = []
            for what in ("interactions", "items"):
                data, suffix = _table(rng) if rng.random() < 0.5 else _records(rng)
                paths.append(folder / f"{what}.{suffix}")
                paths[-1].write_bytes(data)
            try:
                unaccounted += _unaccounted(*paths, folder / "out")
            except DataError:
                continue
            except Exception as error:
                untyped += 1
                print(repr(error)[:200], [path.read_bytes()[:300] for path in paths], file=sys.stderr)
    return {"fuzz_files": files // 2 * 2, "fuzz_untyped": untyped, "unaccounted": unaccounted}


def _table(rng: np.random.Generator) -> tuple[bytes, str]:
    text = HEADERS[rng.integers(4)] + "".join(PIECES[n] for n in rng.integers(0, len(PIECES), rng.integers(0, 60)))
    data = text.encode()
    if rng.random() < 0.2 and data:
        places = rng.integers(0, len(data), 2)
        data = bytes(rng.integers(256) if n in places else byte for n, byte in enumerate(data))
    return data, "csv"


def _records(rng: np.random.Generator) -> tuple[bytes, str]:
    form = json.dumps if rng.random() < 0.8 else repr
    lines = []
    for _ in range(rng.integers(0, 6)):
        pairs = rng.integers(0, [len(KEYS), len(VALUES)], (rng.integers(0, 6), 2))
        lines.append(form({KEYS[key]: VALUES[value] for key, value in pairs}))
    text = "\n".join(lines)
    return text[: rng.integers(1, 2 * len(text) + 2)].encode(errors="replace"), "jsonl"


def _unaccounted(events: Path, items: Path, out: Path) -> int:
    """Rows that neither the counts nor the file of rejected rows know of."""
    found = check(DataConfig(interactions=str(events), items=str(items)), out)
    counts = [each for each in (found.interactions, found.items) if each is not None]
    wrong = sum(each.accepted + each.repaired + each.quarantined != each.read for each in counts)
    return wrong + (out.read_bytes().count(b"\n") != sum(each.quarantined for each in counts))


def assigned(most: int, width: int = 384, shard: int = 100_000) -> dict[str, Any]:
    """Codes of synthetic vectors, made and assigned shard by shard with codebooks from a sample, and made unique."""
    start = time.perf_counter()
    codebooks = Codebooks(residual_kmeans(_vectors(0, 50_000, width), SIZES, 10, 0))
    found: dict[str, Any] = {"kmeans_seconds_of_a_sample": round(time.perf_counter() - start, 1)}
    seconds, codes, errors = 0.0, [], []
    for number in range(most // shard):
        vectors = _vectors(number + 1, shard, width)
        start = time.perf_counter()
        of_shard, far = codebooks.encode(codebooks.latents(vectors))
        codes.append(of_shard.astype(np.int16))
        errors.append(far)
        seconds += time.perf_counter() - start
        items = (number + 1) * shard
        if items in (10**6, 10**7):
            start = time.perf_counter()
            _, digits = add_digit(np.concatenate(codes).astype(np.int64), np.concatenate(errors))
            power = len(str(items)) - 1
            found[f"assign_seconds_1e{power}"] = round(seconds + time.perf_counter() - start, 1)
            found[f"items_of_the_fullest_id_1e{power}"] = digits
            found[f"peak_gb_1e{power}_items"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    return found


def _vectors(seed: int, number: int, width: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((1000, width), dtype=np.float32)
    return centres[rng.integers(0, 1000, number)] + 0.7 * rng.standard_normal((number, width), dtype=np.float32)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--fuzz", type=int, default=100_000)
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        by_size = sizes(Path(folder), options.most)
    largest = by_size[f"csv_1e{len(str(options.most)) - 1}"]
    content = {
        f"seconds_1e{len(str(options.most)) - 1}": largest["seconds"],
        f"peak_gb_1e{len(str(options.most)) - 1}": largest["peak_gb"],
        "growth": by_size.pop("growth"),
        "by_size": by_size,
        "same_fingerprint": fingerprints(options.shared),
        **fuzz(options.fuzz),
        **assigned(options.items),
    }
    report("data", content, options.save)


if __name__ == "__main__":
    main()
