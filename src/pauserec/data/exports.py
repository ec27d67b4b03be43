"""A prepared data set for other libraries, so that their models run on exactly our users, items and split.

Times are not kept: the position in the history stands in for them, so that "the last two events" are the held-out ones
everywhere.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from pauserec.config.settings import NAME
from pauserec.data.dataset import load_dataset
from pauserec.errors import DataError, RunError
from pauserec.records import Dataset
from pauserec.runs.files import write_atomically, write_table
from pauserec.runs.folder import Run

PANDAS_MISSING = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")  # noqa: SIM905
)
"""What pandas, with which RecBole reads its files, takes for "no value", in quotation marks too."""
FIRST = datetime(2000, 1, 1, tzinfo=UTC)


def recbole(dataset: Dataset, folder: Path, name: str) -> list[Path]:
    """RecBole's atomic files, `folder`/NAME/NAME.inter and NAME.item.

    They are meant for `eval_args: {split: {LS: valid_and_test}, order: TO, mode: full}`.
    """
    if not re.fullmatch(NAME, name):
        raise DataError(f"--name {name!r}: take letters, digits, dots, hyphens and underscores")
    for what, ids in (("users", dataset.users), ("items", [item.item_id for item in dataset.items])):
        if len({_field(text) for text in ids}) < len(ids):
            raise DataError(
                f"two {what} differ in whitespace alone, which these files cannot hold: export for RecTools"
            )
        if lost := [text for text in ids if text in PANDAS_MISSING]:
            raise DataError(
                f"RecBole reads these {what} as missing: {', '.join(map(repr, sorted(lost)[:5]))}: export for RecTools, or "
                "name them in data.missing"
            )
    target = folder / name
    _make(target)
    events = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, sequence in zip(dataset.users, dataset.sequences, strict=True):
        events += [
            f"{_field(user)}\t{_field(dataset.items[item].item_id)}\t{place}"
            for place, item in enumerate(sequence.tolist())
        ]
    items = ["item_id:token\ttitle:token_seq\tcategories:token_seq"]
    items += [
        f"{_field(item.item_id)}\t{_field(item.title or '')}\t{_field(' '.join(c.replace(' ', '_') for c in item.categories))}"
        for item in dataset.items
    ]
    written = {target / f"{name}.inter": events, target / f"{name}.item": items}
    _check_free(written)
    for path, lines in written.items():
        write_atomically(path, ("\n".join(lines) + "\n").encode())
    return list(written)


def rectools(dataset: Dataset, folder: Path) -> list[Path]:
    """RecTools' interactions (user_id, item_id, weight, datetime) with a column `split`, and items, as Parquet."""
    _make(folder)
    lengths = [len(sequence) for sequence in dataset.sequences]
    users = [user for user, length in zip(dataset.users, lengths, strict=True) for _ in range(length)]
    items = [dataset.items[item].item_id for sequence in dataset.sequences for item in sequence.tolist()]
    places = [place for length in lengths for place in range(length)]
    held_out = {1: "test", 2: "validation"}
    splits = [held_out.get(length - place, "train") for length in lengths for place in range(length)]
    frame = pl.DataFrame(
        {
            "user_id": users,
            "item_id": items,
            "weight": [1.0] * len(users),
            "datetime": [FIRST + timedelta(days=place) for place in places],
            "split": splits,
        }
    )
    titles = pl.DataFrame(
        {
            "item_id": [item.item_id for item in dataset.items],
            "title": [item.title for item in dataset.items],
            "categories": [list(item.categories) for item in dataset.items],
        }
    )
    paths = [folder / "interactions.parquet", folder / "items.parquet"]
    _check_free(paths)
    for path, table in zip(paths, (frame, titles), strict=True):
        write_table(path, table)
    return paths


def export(run: Path, folder: Path, form: str, name: str) -> list[Path]:
    """Write the prepared data set of a run's "dataset" step in the form "recbole" or "rectools".

    Raises RunError, DataError.
    """
    dataset = load_dataset(Run.existing(run).finished("dataset").path)
    return recbole(dataset, folder, name) if form == "recbole" else rectools(dataset, folder)


def _check_free(paths: Iterable[Path]) -> None:
    """Raise RunError where one of these files exists already: it may be somebody's raw data."""
    for path in paths:
        if path.exists():
            raise RunError(f"{path} exists already: remove it, or name another folder")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}): name another folder") from None


def _field(text: str) -> str:
    """On one line. RecBole reads with pandas: a quotation mark at the start opens a quoted field, so it becomes one."""
    line = " ".join(text.split())
    return '"' + line.replace('"', '""') + '"' if line.startswith('"') else line
