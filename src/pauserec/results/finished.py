"""A finished run as files: what its results were made from, opened to be read."""

import hashlib
from pathlib import Path
from typing import Any

import orjson

from pauserec.config import Recipe
from pauserec.errors import RunError
from pauserec.runs.files import MANIFEST, file_hash
from pauserec.runs.folder import Run
from pauserec.runs.place import RECIPE, rerun

RESULT = "result.json"
RANKS = "ranks.parquet"
METRICS_FILE = "metrics.json"


def open_finished(path: Path) -> Run:
    """A run folder to read from, whose steps are all of one recipe: the one that stands in it. Raises RunError."""
    run = Run.existing(path)
    remedy = f"finish it with {rerun(path)}"
    try:
        content = orjson.loads((path / RESULT).read_bytes())
        recipe, steps, manifests = content["recipe_sha256"], dict(content["steps"]), dict(content.get("manifests", {}))
    except FileNotFoundError:
        raise RunError(f"{path} is not finished: {remedy}") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise RunError(f"{path / RESULT} is damaged: delete it and {remedy}") from None
    # the file as it stands: parsed and dumped again, a newer version would add its new settings
    if recipe != hashlib.sha256((path / RECIPE).read_bytes()).hexdigest():
        raise RunError(f"{path} holds results of another recipe than its {RECIPE}: {remedy}")
    run.expected = {name: (fingerprint, manifests.get(name)) for name, fingerprint in steps.items()}
    return run


def made_from(run: Run) -> dict[str, Any]:
    """What a result was made from: recipe, steps, and their manifests, which differ when a step is done a second time."""
    return {
        "recipe_sha256": recipe_hash(run.recipe),
        "steps": {name: step.fingerprint for name, step in run.steps.items()},
        "manifests": {name: file_hash(step.path / MANIFEST) for name, step in run.steps.items()},
    }


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe."""
    return hashlib.sha256(recipe.dump().encode()).hexdigest()
