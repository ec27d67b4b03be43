"""Made shop logs of a known structure: what is popular, what a person likes, and what goes together.

A person likes one to four categories. An event is a companion of the last item (a quarter: half of an item's companions are
of its series, whose name stands in the title, half of its department), something of a liked category by popularity (35%), or
anything by popularity. Popularity follows a Zipf law. Nothing else is to be learned.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COMPANION, TASTE, COMPANIONS, SERIES = 0.25, 0.35, 4, 8
START = 1_700_000_000
BRANDS = ("Alda", "Brunn", "Cato", "Delph", "Eske", "Fenn", "Gotha", "Holm", "Ister", "Jura")
LINES = ("Nord", "Sol", "Mira", "Tove", "Luma", "Rill", "Fjell", "Vega", "Onda", "Brisa", "Terra", "Koi")
MATERIALS = ("oak", "linen", "steel", "wool", "glass", "clay", "cotton", "brass", "cork", "paper", "slate", "birch")
NOUNS = (
    *("lamp", "bowl", "chair", "scarf", "knife", "vase", "shelf", "rug", "mug", "tray"),
    *("basket", "clock", "pillow", "jar", "hook", "stool", "candle", "mirror", "plate", "box"),
)


@dataclass(frozen=True)
class Shop:
    """A shop to be made. exponent: of the popularity's Zipf law."""

    users: int
    items: int
    events: int
    exponent: float = 1.1
    per_category: int = 40
    seed: int = 0


SHOPS = {
    "shop": Shop(2_481, 800, 40_000),
    "thin": Shop(500, 300, 5_500),
    "wide": Shop(36_000, 50_000, 600_000, exponent=0.6, per_category=100),
}


def make(shop: Shop, folder: Path) -> tuple[Path, Path]:
    """Write events.csv (customer, product, bought_at) and items.csv (sku, name, category) into `folder`."""
    rng = np.random.default_rng(shop.seed)
    folder.mkdir(parents=True, exist_ok=True)
    categories = max(4, shop.items // shop.per_category)
    category = rng.integers(categories, size=shop.items)
    department = category % max(2, categories // 6)
    popularity = (1 / (np.arange(shop.items) + 10) ** shop.exponent)[rng.permutation(shop.items)]
    popularity /= popularity.sum()
    members = [
        found if len(found) else np.array([0]) for found in (np.flatnonzero(category == c) for c in range(categories))
    ]
    series, companions = _companions(rng, members, department, popularity)
    events, items = folder / "events.csv", folder / "items.csv"
    rows = _events(rng, shop, members, companions, popularity)
    with events.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "product", "bought_at"])
        writer.writerows(rows[place] for place in rng.permutation(len(rows)))
    with items.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "category"])
        for item in range(shop.items):
            line, noun = int(series[item]), NOUNS[category[item] % len(NOUNS)]
            brand, name = BRANDS[line % len(BRANDS)], LINES[line // len(BRANDS) % len(LINES)]
            title = f"{brand} {name} {MATERIALS[rng.integers(len(MATERIALS))]} {noun}"
            writer.writerow([f"p{item:06d}", title, f"Department {department[item]} > {noun}s {category[item]}"])
    return events, items


def split_days(events: Path, share: float) -> tuple[Path, Path]:
    """The first events and the latest `share` of them, as two files beside `events`."""
    with events.open(newline="") as file:
        header, *rows = csv.reader(file)
    rows.sort(key=lambda row: int(row[2]))
    cut = int(len(rows) * (1 - share))
    found = []
    for name, part in (("before.csv", rows[:cut]), ("since.csv", rows[cut:])):
        path = events.with_name(name)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *part])
        found.append(path)
    return found[0], found[1]


def _companions(
    rng: np.random.Generator, members: list[np.ndarray], department: np.ndarray, popularity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The series of each item, and its companions [items, COMPANIONS]."""
    items, half = len(popularity), COMPANIONS // 2
    series, companions, number = np.full(items, -1), np.empty((items, COMPANIONS), dtype=np.int64), 0
    for found in members:
        for part in np.array_split(rng.permutation(found), max(1, len(found) // SERIES)):
            series[part], number = number, number + 1
            for item in part:
                companions[item, :half] = rng.choice(part[part != item] if len(part) > 1 else part, half)
    for item in range(items):
        same = np.flatnonzero(department == department[item])
        weights = popularity[same] ** 0.5
        companions[item, half:] = rng.choice(same, COMPANIONS - half, p=weights / weights.sum())
    return series, companions


def _events(
    rng: np.random.Generator, shop: Shop, members: list[np.ndarray], companions: np.ndarray, popularity: np.ndarray
) -> list[tuple[str, str, int]]:
    within = [np.cumsum(popularity[found]) / popularity[found].sum() for found in members]
    overall, liked = np.cumsum(popularity), np.array([popularity[found].sum() for found in members]) ** 0.5
    liked /= liked.sum()
    lengths = np.maximum(5, rng.geometric(1 / max(1.0, shop.events / shop.users - 4), size=shop.users) + 4)
    rows = []
    for user in range(shop.users):
        tastes = rng.choice(len(members), rng.integers(1, 5), p=liked)
        time, last, seen, tries = START + int(rng.integers(0, 200 * 86_400)), -1, set(), 0
        while len(seen) < lengths[user] and tries < 20 * lengths[user]:
            tries += 1
            draw = rng.random()
            if last >= 0 and draw < COMPANION:
                item = int(companions[last][rng.integers(COMPANIONS)])
            elif draw < COMPANION + TASTE:
                taste = tastes[rng.integers(len(tastes))]
                item = int(members[taste][np.searchsorted(within[taste], rng.random())])
            else:
                item = int(min(shop.items - 1, np.searchsorted(overall, rng.random())))
            if item in seen:
                continue
            seen.add(item)
            last = item
            time += int(rng.exponential(3 * 86_400)) if rng.random() < 0.7 else int(rng.integers(60, 900))
            rows.append((f"c{user:06d}", f"p{item:06d}", time))
    return rows
