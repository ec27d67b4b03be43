"""Which version of pauserec this is."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@cache
def origin() -> dict[str, str | None]:
    """Version and, where the package lies in a git checkout of its own, commit: what a manifest names."""
    try:
        number = version("pauserec")
    except PackageNotFoundError:
        number = "unknown"
    return {"version": number, "commit": _commit()}


def named(made_by: Any) -> str:
    """What a manifest says of the version that wrote it, for a reader."""
    if not isinstance(made_by, dict) or "version" not in made_by:
        return "an earlier version"
    commit = made_by.get("commit")
    return f"{made_by['version']} ({commit})" if commit else str(made_by["version"])


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or not (root / "src" / "pauserec").is_dir():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
