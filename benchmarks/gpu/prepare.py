"""What a GPU machine without internet needs: data, vectors and IDs of all runs, weights, wheels; in parts that can be sent.

    python benchmarks/gpu/prepare.py --data FOLDER --out build/gpu [--rows benchmarks/gpu/rows.toml] [--python 3.12]
                                     [--part-mb 60] [--wheels NAME==VERSION ...]

FOLDER holds the data sets that the list of rows names. `build/gpu/part-NN` are pieces of one compressed archive: on the other
machine they give `COMMIT`, `prepared/`, `cache/` and `wheels/` again (docs/gpu.md).
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from entries import Entry, identity, read
from measure import header

from pauserec.assets import named
from pauserec.config import Recipe
from pauserec.errors import PauserecError
from pauserec.pipeline import make_ids, run

LISTED = Path(__file__).with_name("rows.toml")


def prepare(entries: list[Entry], folder: Path) -> None:
    """Make what runs have in common, once for every data set and tokenizer."""
    for entry in entries:
        recipe = entry.load()
        target = folder / identity(recipe)
        bare = {"stages": [], "baselines": []}
        evaluation = recipe.evaluation.model_dump(mode="json") | {"models": []}
        common = Recipe.parse(recipe.model_dump(mode="json") | bare | {"evaluation": evaluation})
        run(common, target, on_step=lambda name, done, at=target: print(at.name, name, "done" if done else ""))
        if recipe.makes_ids:
            print(target.name, make_ids(target).name)


def weights(entries: list[Entry], cache: Path) -> None:
    """Copy the weights of all language models that are known by name, small enough to be sent."""
    names = {recipe.model.name for recipe in (entry.load() for entry in entries) if recipe.stages}
    for name in sorted(names & {asset.name for asset in named.known()}):
        found = named.fetch(name)
        shutil.copytree(found, cache / found.relative_to(named.cache_folder()), dirs_exist_ok=True)


def wheels(names: list[str], python: str, folder: Path) -> None:
    """Fetch wheels for another Python, without what they need: name everything that is missing there."""
    tags = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34, 35)] + ["manylinux2014_x86_64"]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    fixed = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", *fixed, *platforms, "-d", str(folder), *names], check=True
    )


def pack(folder: Path, part_mb: int) -> list[Path]:
    """Cut the archive of everything made here into parts."""
    for old in folder.glob("part-*"):
        old.unlink()
    (folder / "COMMIT").write_text(header()["commit"] + "\n")
    names = [name for name in ("COMMIT", "prepared", "cache", "wheels") if (folder / name).exists()]
    archive = subprocess.Popen(["tar", "-cJ", "-C", str(folder), *names], stdout=subprocess.PIPE)
    assert archive.stdout is not None
    parts = []
    while piece := archive.stdout.read(part_mb * 2**20):
        parts.append(folder / f"part-{len(parts):02d}")
        parts[-1].write_bytes(piece)
    if archive.wait():
        raise SystemExit("tar failed")
    return parts


def commands(parts: int) -> list[str]:
    """What to run on the other machine: one line for each part as it comes, the last one does the work."""
    unpack = "mode='r|xz').extractall('build/all', filter='data')"
    keep = [f"mkdir -p build && cat part-{number:02d} >> build/parts" for number in range(parts)]
    work = (
        f"python3 -c \"import tarfile; tarfile.open(fileobj=open('build/parts', 'rb'), {unpack}\" && "
        "export PYTHONPATH=build/site:src PAUSEREC_CACHE=build/all/cache PAUSEREC_COMMIT=$(cat build/all/COMMIT) && "
        "python3 -m pip install -q --no-index --no-deps --target build/site build/all/wheels/*.whl && "
        "python3 benchmarks/gpu/run.py --prepared build/all/prepared --out build/gpu-out --budget 480"
    )
    return [*keep, work]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=Path, default=LISTED)
    parser.add_argument("--wheels", nargs="*", default=[])
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--part-mb", type=int, default=60)
    options = parser.parse_args()
    entries, out = read(options.rows), options.out.resolve()
    for name in ("prepared", "cache", "wheels"):
        (out / name).mkdir(parents=True, exist_ok=True)
    os.chdir(options.data)
    prepare(entries, out / "prepared")
    weights(entries, out / "cache")
    if options.wheels:
        wheels(options.wheels, options.python, out / "wheels")
    parts = pack(out, options.part_mb)
    for part in parts:
        print(part, f"{part.stat().st_size / 2**20:.1f} MiB")
    print("\n".join(("on the other machine:", *commands(len(parts)))))


if __name__ == "__main__":
    try:
        main()
    except PauserecError as refused:
        sys.exit(f"error: {refused}")
