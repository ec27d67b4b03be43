"""The run folder: one folder per step, each finished by a manifest that is written last.

A step's fingerprint covers its settings and the fingerprints of its inputs, so an unrelated change redoes nothing. A manifest
also says what the inputs and raw files held, so a step whose input was made anew with other content is done again.
While a step runs, its folder is `STEP.partial`; an interrupted step finds its own checkpoints there again.
Of several processes, the first one writes; the others take part in collective steps and wait for all others.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from pauserec import parallel
from pauserec.config import Recipe, Settings
from pauserec.errors import RunError

MANIFEST = "manifest.json"
STARTED = "started.json"
RECIPE = "recipe.toml"
WATCHING = "tensorboard"
"""Folder within a step for what only watches it."""


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


StepFunction = Callable[..., dict[str, Any] | None]
"""(settings, *inputs, out: Path, log) -> summary. Inputs are FinishedSteps; everything it leaves in `out` is kept."""


class Run:
    """A run folder. Open one with `Run.open` (to run) or `Run.existing` (to read)."""

    def __init__(self, path: Path, recipe: Recipe, redo: frozenset[str] = frozenset()) -> None:
        self.path = path
        self.recipe = recipe
        self._redo = set(redo)
        self.steps: dict[str, FinishedStep] = {}
        self.expected: dict[str, tuple[str, str | None]] | None = None
        """Fingerprints, and hashes of manifests, that finished steps must have, where the folder is only read."""
        self.on_step: Callable[[str, bool], None] = lambda name, done: None
        """Told each step's name before it runs, and whether it is done already."""

    @classmethod
    def open(cls, recipe: Recipe, path: Path, redo: tuple[str, ...] = ()) -> Self:
        """Create the folder, or go on in it. Raises RunError if `path` holds something that is no run."""
        if path.exists() and not path.is_dir():
            raise RunError(f"--out {path} is a file: name a folder")
        if path.is_dir() and any(path.iterdir()) and not (path / RECIPE).exists():
            raise RunError(
                f"{path} is not empty and holds no {RECIPE}, so it is not a run folder: choose another --out"
            )
        parallel.wait()
        if parallel.is_main():
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / RECIPE, recipe.dump().encode())
        parallel.wait()
        return cls(path, recipe, frozenset(redo))

    @classmethod
    def existing(cls, path: Path) -> Self:
        """Open a run to read from. Raises RunError if it is none, or is not finished enough."""
        if not (path / RECIPE).exists():
            raise RunError(f"{path} is no run folder (no {RECIPE} in it): give the folder that `pauserec run` wrote")
        return cls(path, Recipe.load(path / RECIPE))

    def fingerprint(self, name: str, settings: Settings | None, inputs: tuple[FinishedStep, ...]) -> str:
        """Hash of a step's name, settings and inputs."""
        content = {
            "step": name,
            "settings": settings.identity() if settings else None,
            "inputs": [step.fingerprint for step in inputs],
        }
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def is_done(
        self, name: str, settings: Settings | None, inputs: tuple[FinishedStep, ...], files: tuple[Path, ...] = ()
    ) -> bool:
        """Whether the step stands finished in the folder, made from just these settings, inputs and raw files."""
        manifest = self._manifest(name)
        return (
            name not in self._redo
            and manifest is not None
            and manifest["fingerprint"] == self.fingerprint(name, settings, inputs)
            and _agree(manifest.get("inputs"), _contents(inputs, files))
        )

    def step(
        self,
        name: str,
        function: StepFunction,
        settings: Settings | None,
        *inputs: FinishedStep,
        collective: bool = False,
        files: tuple[Path, ...] = (),
    ) -> FinishedStep:
        """Do the step unless it is done; give back its folder and fingerprint.

        collective: all processes do it together, and it sees to it that only the first one writes. files: raw files it reads.
        """
        done = parallel.agree(lambda: self.is_done(name, settings, inputs, files))
        self.on_step(name, done)
        if not done:
            partial = self.path / f"{name}.partial"
            if parallel.is_main():
                self._open(name, partial, self.fingerprint(name, settings, inputs), _contents(inputs, files))
            parallel.wait()
            if parallel.is_main():
                self._do(name, partial, function, settings, inputs)
            elif collective:
                function(settings, *inputs, out=partial, log=lambda **_: None)
            parallel.wait()
            self.steps.pop(name, None)
            self._redo.discard(name)
        return self.finished(name)

    def finished(self, name: str) -> FinishedStep:
        """A finished step, its files verified against the manifest. Raises RunError."""
        if name in self.steps:
            return self.steps[name]
        manifest = self._manifest(name)
        if manifest is None:
            raise RunError(f"{self.path} has no finished step {name!r}: run `pauserec run {self.path / RECIPE}` first")
        if self.expected is not None and not self._is_expected(name, manifest["fingerprint"]):
            raise RunError(f"step {name!r} of {self.path} was redone since its results: run its {RECIPE} again")
        verify(self.path / name, manifest["files"])
        content = _content(manifest["files"])
        step = FinishedStep(name, self.path / name, manifest["fingerprint"], manifest["summary"], content)
        self.steps[name] = step
        return step

    def log(self, step: str, **values: Any) -> None:
        """Append one line to log.jsonl."""
        line = orjson.dumps({"time": round(time.time(), 3), "step": step, **values}, option=orjson.OPT_SERIALIZE_NUMPY)
        with (self.path / "log.jsonl").open("ab") as file:
            file.write(line + b"\n")

    def _is_expected(self, name: str, fingerprint: str) -> bool:
        wanted, manifest = (self.expected or {}).get(name, ("", None))
        return wanted == fingerprint and manifest in (None, file_hash(self.path / name / MANIFEST))

    def _open(self, name: str, partial: Path, fingerprint: str, contents: dict[str, str]) -> None:
        """Make the folder of a step that begins, or go on in that of the same step, interrupted."""
        started = _read_json(partial / STARTED)
        same = started.get("fingerprint") == fingerprint and _agree(started.get("inputs"), contents)
        if partial.exists() and (name in self._redo or not same):
            shutil.rmtree(partial)
            started = {}
        partial.mkdir(exist_ok=True)
        content = {"fingerprint": fingerprint, "inputs": contents, "seconds": float(started.get("seconds", 0.0))}
        write_atomically(partial / STARTED, orjson.dumps(content))

    def _do(
        self,
        name: str,
        partial: Path,
        function: StepFunction,
        settings: Settings | None,
        inputs: tuple[FinishedStep, ...],
    ) -> None:
        started = partial / STARTED
        before = orjson.loads(started.read_bytes())
        made_from, spent = {key: before[key] for key in ("fingerprint", "inputs")}, before["seconds"]
        begin = time.perf_counter()
        try:
            summary = function(settings, *inputs, out=partial, log=lambda **values: self.log(name, **values)) or {}
        finally:  # what an interrupted attempt took counts too, unless it was killed
            seconds = round(spent + time.perf_counter() - begin, 3)
            write_atomically(started, orjson.dumps(made_from | {"seconds": seconds}))
        started.unlink()
        # an attempt that was killed could not say what it took, but the checkpoint it left knows
        summary = {"seconds": max(seconds, summary.get("training_seconds", 0.0)), **summary}
        manifest = made_from | {"summary": summary, "files": hashes(partial)}
        write_atomically(partial / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        final = self.path / name
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        fsync_folder(self.path)
        self.log(name, event="done", **summary)

    def _manifest(self, name: str) -> dict[str, Any] | None:
        path = self.path / name / MANIFEST
        if not path.exists():
            return None
        manifest = _read_json(path)
        if not {"fingerprint", "files", "summary"} <= manifest.keys():
            raise RunError(f"{path} is damaged: redo the step with --redo {name}")
        return manifest


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file under `folder`, by relative path; each file is synced to disk on the way."""
    result = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
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


def _contents(inputs: tuple[FinishedStep, ...], files: tuple[Path, ...]) -> dict[str, str]:
    """What a step is made from, by name. A raw file that is gone says nothing."""
    return {step.name: step.content for step in inputs if step.content} | {
        f"file {number}": file_hash(path) for number, path in enumerate(files) if path.is_file()
    }


def _content(files: Mapping[str, Mapping[str, Any]]) -> str:
    kept = {name: entry["sha256"] for name, entry in files.items() if WATCHING not in Path(name).parts}
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _agree(recorded: Mapping[str, str] | None, found: Mapping[str, str]) -> bool:
    """Whether all that was written down (earlier versions wrote nothing) and is still there is as it was."""
    return all(found.get(name, content) == content for name, content in (recorded or {}).items())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Measure a block: `with timed() as t: ...` then t["seconds"]."""
    result = {"seconds": 0.0}
    begin = time.perf_counter()
    yield result
    result["seconds"] = time.perf_counter() - begin


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
