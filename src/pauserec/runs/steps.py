"""A finished step, and what it was made from."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from pauserec.runs.files import (
    file_hash,
)
from pauserec.runs.fingerprints import Fingerprint

WATCHING = "tensorboard"
"""Folder within a step for what only watches it."""


RAW = "file "
"""Begins the name of a raw file in a manifest."""


@dataclass(frozen=True)
class FinishedStep:
    """A finished step: its folder, and the fingerprint of everything that went into it."""

    name: str
    path: Path
    fingerprint: str
    summary: dict[str, Any]
    """What the step reported of itself (seconds, tokens, trainable_parameters, ...)."""
    content: str = ""
    """Hash of its files, those left out that only watch the step."""
    counted: Fingerprint | None = None
    """The fingerprints it has by the recipe at hand; None where it is only read."""


StepFunction = Callable[..., dict[str, Any] | None]
"""(settings, *inputs, out: Path, log) -> summary. Inputs are FinishedSteps; everything it leaves in `out` is kept."""


def contents_of(inputs: tuple[FinishedStep, ...], files: tuple[Path, ...]) -> dict[str, str]:
    """What a step is made from, by name. A raw file that is gone says nothing."""
    return {step.name: step.content for step in inputs if step.content} | {
        f"{RAW}{number}": file_hash(path) for number, path in enumerate(files) if path.is_file()
    }


def content_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    kept = {name: entry["sha256"] for name, entry in files.items() if WATCHING not in Path(name).parts}
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()


def agree(recorded: Mapping[str, str] | None, found: Mapping[str, str]) -> bool:
    """Whether all that was written down (earlier versions wrote nothing) and is still there is as it was, and nothing more."""
    recorded = recorded or {}
    before, now = ({name for name in names if name.startswith(RAW)} for names in (recorded, found))
    came = before and now - before
    return not came and all(found.get(name, content) == content for name, content in recorded.items())
