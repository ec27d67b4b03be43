"""MovieLens-100k in one normal form, whichever distribution it came from.

Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015. GroupLens' files and RecBole's
copy of them hold the same events in the same order; titles carry their year in the one and have it apart in the other.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import orjson

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_TITLE = re.compile(r"(?P<title>.*?)\s*\((?P<year>\d{4})\)\s*(?:\(V\)\s*)?")
_NAMELESS = ("unknown", "unkonwn")  # item 267 has no title; RecBole's copy misspells it
Row = tuple[str, str, str, list[str]]


def from_grouplens(raw: Path, out: Path) -> None:
    """u.data and u.item in `raw` -> interactions.csv and items.jsonl in `out`."""
    rows = (line.split("|") for line in _lines(raw / "u.item", "latin-1"))
    items = ((row[0], row[1], "", [g for g, flag in zip(GENRES, row[5:], strict=True) if flag == "1"]) for row in rows)
    _write(_lines(raw / "u.data", "ascii"), items, out)


def from_recbole(raw: Path, out: Path) -> None:
    """ml-100k.inter and ml-100k.item in `raw` -> interactions.csv and items.jsonl in `out`."""
    rows = (line.split("\t") for line in _lines(raw / "ml-100k.item", "utf-8")[1:])
    items = ((item, title, year, genres.split(" ")) for item, title, year, genres in rows)
    _write(_lines(raw / "ml-100k.inter", "ascii")[1:], items, out)


def _write(events: list[str], items: Iterator[Row], out: Path) -> None:
    """Events are lines "user, item, rating, timestamp" parted by tabs, kept in their order; ratings are left out."""
    lines = ["user_id,item_id,timestamp"]
    for event in events:
        user, item, _, timestamp = event.split("\t")
        lines.append(f"{user},{item},{timestamp}")
    (out / "interactions.csv").write_bytes("\n".join([*lines, ""]).encode())
    (out / "items.jsonl").write_bytes(b"".join(orjson.dumps(_item(*row)) + b"\n" for row in items))


def _item(item_id: str, title: str, year: str, genres: list[str]) -> dict[str, object]:
    if title in _NAMELESS:
        return {"item_id": item_id, "title": None, "year": None, "categories": genres}
    parts = _TITLE.fullmatch(title)
    if parts:
        title, year = parts["title"], parts["year"]
    return {"item_id": item_id, "title": title, "year": year, "categories": genres}


def _lines(path: Path, encoding: str) -> list[str]:
    return [line for line in path.read_bytes().decode(encoding).split("\n") if line]
