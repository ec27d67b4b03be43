"""Where a run may be, and who works there: what keeps a run from other people's files and from other processes."""

import errno
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pauserec.config import Recipe
from pauserec.errors import PauserecError, RunError
from pauserec.runs import processes
from pauserec.runs.files import TEMPORARY, write_atomically

RECIPE = "recipe.toml"
LOG = "log.jsonl"
LOCK = ".lock"
FIT = "fit.toml"
"""The recipe that `pauserec fit` wrote, with its comments."""


def rerun(path: Path) -> str:
    """The command that goes on with a run, for a shell."""
    return f"`pauserec run {shlex.quote(str(path / RECIPE))} --out {shlex.quote(str(path))}`"


def check_place(path: Path) -> None:
    """Raise RunError if `path` holds something that is no run."""
    if path.exists() and not path.is_dir():
        raise RunError(f"--out {path} is a file: name a folder")
    found = [entry for entry in path.iterdir() if not entry.match(TEMPORARY)] if path.is_dir() else []
    others = {entry.name for entry in found} - {LOCK, FIT}
    if others and RECIPE not in others:
        raise RunError(f"{path} is not empty and holds no {RECIPE}, so it is not a run folder: choose another --out")
    if others and LOG not in others and not _just_begun(path, others):
        raise RunError(f"{path} holds a {RECIPE} but no {LOG}, so it is not a run folder: choose another --out")


def _just_begun(path: Path, names: set[str]) -> bool:
    """Whether nothing but a recipe stands here, as a run writes it."""
    with suppress(PauserecError):
        return names == {RECIPE} and Recipe.load(path / RECIPE).dump() == (path / RECIPE).read_text()
    return False


def make_folder(path: Path) -> None:
    """Make the folder. Raises RunError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--out {path} cannot be made ({error.strerror}): choose another") from None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from running in a run folder meanwhile. Raises RunError if one does already.

    Whatever ends this process frees the folder. Of several processes that run together, the first keeps it.
    """
    check_place(path)
    if not processes.is_main():
        yield
        return
    make_folder(path)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another process is running in {path}: wait for it, or choose another --out") from None
    except OSError as error:
        if error.errno != errno.ENOLCK:  # a network's file system may know no locks: go on without one
            raise RunError(f"{path / LOCK} cannot be opened ({error.strerror}): choose another --out") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def recipe_put_back(path: Path) -> Iterator[None]:
    """Where a run is refused, its folder keeps the recipe it had: else a finished one would be a failed one's from now on."""
    recipe = path / RECIPE
    before = recipe.read_bytes() if recipe.exists() and processes.is_main() else None
    try:
        yield
    except PauserecError:
        if before is not None:
            write_atomically(recipe, before)
        raise


def remove_step(folder: Path, marks: tuple[str, ...]) -> None:
    """Remove a step's folder, if there is one. Raises RunError where none of its marks is there: somebody else's files."""
    if not folder.exists():
        return
    foreign = any(not entry.match(TEMPORARY) for entry in folder.iterdir())
    if foreign and not any((folder / mark).exists() for mark in marks):
        raise RunError(f"{folder} holds files that no run wrote: move them away, or choose another --out")
    shutil.rmtree(folder)
