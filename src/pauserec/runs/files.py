"""Files that a crash at any moment leaves whole: written atomically, listed with their hashes, checked when read again."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pauserec.errors import RunError

MANIFEST = "manifest.json"
"""Beside the files it lists; written last."""
TEMPORARY = ".*.tmp"
"""Files on their way to their names."""


def hashes(folder: Path, without: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file under `folder`, by relative path; each file is synced to disk on the way.

    without: files and folders directly in it that are left out.
    """
    result = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        if path.relative_to(folder).parts[0] in without:
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        digest = file_hash(path)
        result[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": digest}
    return result


def verify(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RunError unless every file is there, unchanged."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path} is missing: redo the step with --redo {folder.name}")
        if path.stat().st_size != expected["size"]:
            raise RunError(f"{path} was truncated or changed: redo the step with --redo {folder.name}")
        if file_hash(path) != expected["sha256"]:
            raise RunError(f"{path} was changed: redo the step with --redo {folder.name}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    A link stays one, and what it names is written; a device or a pipe is written to as it is.
    """
    path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write Parquet as `write_atomically` writes."""
    write_atomically(path, parquet(table))


def parquet(table: pl.DataFrame) -> bytes:
    """A table as the content of a Parquet file."""
    content = io.BytesIO()
    table.write_parquet(content)
    return content.getvalue()


def read_table(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read Parquet from the file of this name: left to itself, polars takes `[`, `*` and `?` for a pattern."""
    return pl.read_parquet(path, columns=columns if columns is None else list(columns), glob=False)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file that exists."""
    return one.exists() and other.exists() and one.samefile(other)


def fsync_folder(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds, empty if it is missing or damaged."""
    try:
        content = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
