"""The list of runs (rows.toml) as records, and the recipe of each."""

import hashlib
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pauserec.config import Recipe

sys.path.insert(0, str(Path(__file__).parent.parent))  # measure.py, for the scripts here

SAVE_EVERY = 10**6
"""Steps between checkpoints: none within a stage, which takes minutes, while a whole one of 135M parameters is 1.6 GB."""


@dataclass(frozen=True)
class Entry:
    """One run. minutes: a guess of what it takes. start: the name of a run whose steps are taken over."""

    name: str
    data: str
    source: str
    recipe: str
    minutes: float
    seed: int
    overrides: tuple[str, ...]
    start: str | None
    methods: dict[str, str]

    @property
    def key(self) -> str:
        """Name among all runs of the list."""
        return f"{self.data}-{self.name}"

    def load(self) -> Recipe:
        """The recipe, seeded. Its raw data is named relative to the folder of all data sets, and read by prepare.py alone."""
        content = Recipe.load(self.recipe, self.overrides).seeded(self.seed).model_dump(mode="json")
        content["data"]["source"] = self.source
        for part in (*content["stages"], *content["baselines"]):
            part["save_every"] = SAVE_EVERY
        return Recipe.parse(content)


def read(path: Path) -> list[Entry]:
    """The runs, in order."""
    content = tomllib.loads(path.read_text())
    common = tuple(content.get("defaults", {}).get("set", ()))
    named = {(run["data"], run["name"]): run for run in content["runs"]}

    def settings(run: dict[str, Any]) -> tuple[str, ...]:
        """A run that goes on from another has its settings first: what it takes over must be what it would have made."""
        before = settings(named[run["data"], run["from"]]) if "from" in run else common
        return (*before, *run.get("set", ()))

    return [
        Entry(
            name=run["name"],
            data=run["data"],
            source=content["data"][run["data"]],
            recipe=run["recipe"],
            minutes=run["minutes"],
            seed=run.get("seed", 0),
            overrides=settings(run),
            start=f"{run['data']}-{run['from']}" if "from" in run else None,
            methods=content["methods"] | run.get("methods", {}),
        )
        for run in content["runs"]
    ]


def identity(recipe: Recipe) -> str:
    """Name of the prepared folder that a recipe needs: its data, vectors and IDs, whatever it trains."""
    parts = (recipe.data, recipe.embedder, recipe.quantizer)
    return hashlib.sha256("".join(part.model_dump_json() for part in parts).encode()).hexdigest()[:12]
