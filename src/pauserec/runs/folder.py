"""The run folder: one folder per step, each finished by a manifest that is written last.

A step's fingerprint (runs/fingerprints.py) covers its settings and the fingerprints of its inputs, so an unrelated change
redoes nothing. A manifest also says what the inputs and raw files held, so a step whose input was made anew with other
content is done again. A finished step of another run folder that is the same can be taken over.
While a step runs, its folder is `STEP.partial`; an interrupted step finds its own checkpoints there again.
Of several processes, the first one writes; the others take part in collective steps and wait for all others.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial as bound
from pathlib import Path
from typing import Any, Self

import orjson

from pauserec.config import Recipe, Settings
from pauserec.errors import RecipeError, RunError
from pauserec.runs import processes
from pauserec.runs.files import (
    MANIFEST,
    TEMPORARY,
    file_hash,
    fsync_folder,
    hashes,
    read_json,
    verify,
    write_atomically,
)
from pauserec.runs.fingerprints import Fingerprint, changed_settings, fingerprint
from pauserec.runs.origin import named, origin
from pauserec.runs.place import LOG, RECIPE, check_place, make_folder, remove_step, rerun
from pauserec.runs.steps import FinishedStep, StepFunction, agree, content_hash, contents_of

STARTED = "started.json"
RESUMING = "training"
"""Folder within a step for what only resuming it needs: gone once the step is done."""


class Run:
    """A run folder. Open one with `Run.open` (to run) or `Run.existing` (to read)."""

    def __init__(self, path: Path, recipe: Recipe, redo: frozenset[str] = frozenset()) -> None:
        self.path = path
        self.recipe = recipe
        self._redo = set(redo)
        self.steps: dict[str, FinishedStep] = {}
        self.expected: dict[str, tuple[str, str | None]] | None = None
        """Fingerprints, and hashes of manifests, that finished steps must have, where the folder is only read."""
        self.before: Mapping[str, Fingerprint] = {}
        """Steps by the recipe that stood in the folder when it was opened."""
        self.yes = True
        """Whether a recipe may run on data that it is not made for."""
        self.reuse: tuple[Path, ...] = ()
        """Other run folders, whose finished steps are taken over where they are the same."""
        self.on_step: Callable[[str, bool], None] = lambda name, done: None
        """Told each step's name before it runs, and whether it is done already."""
        self.on_done: Callable[[str], object] = lambda name: None
        """Told each step's name once it was done, not where it was done already."""
        self.on_again: Callable[[str, str], None] = lambda name, why: None
        """Told which finished step is done again, and why."""

    @classmethod
    def open(cls, recipe: Recipe, path: Path, redo: tuple[str, ...] = ()) -> Self:
        """Create the folder, or go on in it. Raises RunError if `path` holds something that is no run."""
        check_place(path)
        processes.barrier()
        if processes.is_main():
            make_folder(path)
            write_atomically(path / RECIPE, recipe.dump().encode())
        processes.barrier()
        return cls(path, recipe, frozenset(redo))

    @classmethod
    def existing(cls, path: Path) -> Self:
        """Open a run to read from. Raises RunError if it is none, or is not finished enough."""
        if not (path / RECIPE).exists():
            raise RunError(f"{path} is no run folder (no {RECIPE} in it): give the folder that `pauserec run` wrote")
        try:
            return cls(path, Recipe.load(path / RECIPE))
        except RecipeError as error:
            raise RunError(f"{path / RECIPE} is no recipe of this version: {error}") from None

    def counted(self, name: str, settings: Settings | None, inputs: tuple[FinishedStep, ...]) -> Fingerprint:
        """A step's fingerprints by the recipe at hand."""
        below = [step.counted or Fingerprint(step.fingerprint, step.fingerprint) for step in inputs]
        return fingerprint(name, settings, below)

    def is_done(
        self, name: str, settings: Settings | None, inputs: tuple[FinishedStep, ...], files: tuple[Path, ...] = ()
    ) -> bool:
        """Whether the step stands finished in the folder, made from just these settings, inputs and raw files.

        A step whose redoing was interrupted does not.
        """
        return not self._why_again(name, self.counted(name, settings, inputs), contents_of(inputs, files))

    def _why_again(self, name: str, counted: Fingerprint, contents: Mapping[str, str]) -> str:
        """Why a step is to be done; empty where it need not be."""
        manifest = self._manifest(name) if name not in self._redo else None
        if manifest is None:
            return "--redo" if name in self._redo and (self.path / name).exists() else "it is not done yet"
        before = self.before.get(name)
        if not counted.known(manifest["fingerprint"], before, first_rule="made_by" not in manifest):
            earlier = manifest.get("settings") or (before.settings if before else None)
            called = bound(self.recipe.setting_key, name)
            changed = changed_settings(earlier, counted.settings, called) if earlier else "its settings changed"
            return changed or "what it is made from is made again"
        if not agree(manifest.get("inputs"), contents):
            return "a file or step that it was made from holds something else now"
        started = read_json(self.path / f"{name}.partial" / STARTED)
        again = started.get("redo") and _is_begun(started, counted, before)
        return "doing it again was interrupted" if again else ""

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
        counted = self.counted(name, settings, inputs)
        if processes.is_main():  # what a kill left between its manifest and its place
            self._publish(name)
        why = processes.broadcast(lambda: self._why_missing(name, counted, contents_of(inputs, files)))
        self.on_step(name, not why)
        if why:
            partial = self.path / f"{name}.partial"
            if processes.is_main():
                self._open(name, partial, counted, contents_of(inputs, files), why)
            processes.barrier()
            if processes.is_main():
                self._do(name, partial, function, settings, inputs)
            elif collective:
                function(settings, *inputs, out=partial, log=lambda **_: None)
            processes.barrier()
            self.steps.pop(name, None)
            self._redo.discard(name)
        step = self.steps[name] = replace(self.finished(name), counted=counted)
        if why:
            self.on_done(name)
        return step

    def _why_missing(self, name: str, counted: Fingerprint, contents: dict[str, str]) -> str:
        """As `_why_again`, after a look into the other run folders."""
        why = self._why_again(name, counted, contents)
        if why and (other := self.elsewhere(name, counted, contents)):
            self._take_over(other, name)
            return ""
        return why

    def elsewhere(self, name: str, counted: Fingerprint, contents: Mapping[str, str]) -> Path | None:
        """The run folder to reuse that has the same step finished, if one has and it is not to be done again.

        Raises RunError where the only one is damaged.
        """
        damage = ""
        for other in self.reuse if name not in self._redo else ():
            manifest = Run(other, self.recipe)._manifest(name)
            if manifest is None or not counted.known(manifest["fingerprint"], first_rule="made_by" not in manifest):
                continue
            if not agree(manifest.get("inputs"), contents):
                continue
            try:
                verify(other / name, manifest["files"])
            except RunError as error:
                damaged = str(error).partition(":")[0]
                damage = f"{damaged}: leave out --reuse {other}, or mend it: {rerun(other)} --redo {name}"
                continue
            return other
        if damage:
            raise RunError(damage)
        return None

    def _take_over(self, other: Path, name: str) -> None:
        """Copy a finished step of another run folder."""
        partial = self.path / f"{name}.partial"
        remove_step(partial, marks=(STARTED, MANIFEST))
        shutil.copytree(other / name, partial, ignore=lambda _, names: {MANIFEST} & set(names))
        write_atomically(partial / MANIFEST, (other / name / MANIFEST).read_bytes())
        self._publish(name)
        self.log(name, event="taken over", run=str(other))

    def finished(self, name: str) -> FinishedStep:
        """A finished step, its files verified against the manifest. Raises RunError."""
        if name in self.steps:
            return self.steps[name]
        manifest = self._manifest(name)
        remedy = f"run {rerun(self.path)}"
        if manifest is None:
            raise RunError(f"{self.path} has no finished step {name!r}: {remedy} first")
        if self.expected is not None and not self._is_expected(name, manifest["fingerprint"]):
            raise RunError(f"step {name!r} of {self.path} was redone since its results: {remedy} again")
        verify(self.path / name, manifest["files"])
        content = content_hash(manifest["files"])
        step = FinishedStep(name, self.path / name, manifest["fingerprint"], manifest["summary"], content)
        self.steps[name] = step
        return step

    def log(self, step: str, **values: Any) -> None:
        """Append one line to log.jsonl."""
        line = orjson.dumps({"time": round(time.time(), 3), "step": step, **values}, option=orjson.OPT_SERIALIZE_NUMPY)
        with (self.path / LOG).open("ab") as file:
            file.write(line + b"\n")

    def _is_expected(self, name: str, fingerprint: str) -> bool:
        wanted, manifest = (self.expected or {}).get(name, ("", None))
        return wanted == fingerprint and manifest in (None, file_hash(self.path / name / MANIFEST))

    def _open(self, name: str, partial: Path, counted: Fingerprint, contents: dict[str, str], why: str) -> None:
        """Make the folder of a step that begins, or go on in that of the same step, interrupted."""
        started = read_json(partial / STARTED)
        same = _is_begun(started, counted, self.before.get(name)) and agree(started.get("inputs"), contents)
        redo = name in self._redo
        if not same or (redo and not started.get("redo")):
            started = {}
            self.log(name, event="begin")
            if (self.path / name).exists():
                self.log(name, event="again", why=why)
                self.on_again(name, why)
            remove_step(partial, marks=(STARTED, MANIFEST))
        partial.mkdir(exist_ok=True)
        for leftover in partial.glob(TEMPORARY):
            leftover.unlink()  # a killed write's, which would count as the step's own
        goes_on = {"seconds": float(started.get("seconds", 0.0)), "redo": redo or bool(started.get("redo"))}
        content = {"fingerprint": counted.now, "settings": counted.settings, "inputs": contents, **goes_on}
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
        made_from = {key: before[key] for key in ("fingerprint", "settings", "inputs")} | {"made_by": origin()}
        begin = time.perf_counter()
        try:
            summary = function(settings, *inputs, out=partial, log=lambda **values: self.log(name, **values)) or {}
        finally:  # what an interrupted attempt took counts too, unless it was killed
            seconds = round(before["seconds"] + time.perf_counter() - begin, 3)
            with suppress(OSError):  # a full disk has its own error on the way
                write_atomically(started, orjson.dumps(before | {"seconds": seconds}))
        # an attempt that was killed could not say what it took, but the checkpoint it left knows
        summary = {"seconds": max(seconds, summary.get("training_seconds", 0.0)), **summary}
        files = hashes(partial, without=(STARTED, RESUMING))
        manifest = made_from | {"summary": summary, "files": files}
        write_atomically(partial / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        self._publish(name)
        self.log(name, event="done", **summary)

    def _publish(self, name: str) -> None:
        """Put a step in its place if its manifest is written; only from then on can it do without what resuming needs."""
        partial, final = self.path / f"{name}.partial", self.path / name
        if not (partial / MANIFEST).exists():
            return
        (partial / STARTED).unlink(missing_ok=True)
        shutil.rmtree(partial / RESUMING, ignore_errors=True)
        remove_step(final, marks=(MANIFEST,))
        partial.rename(final)
        fsync_folder(self.path)

    def versions(self) -> dict[str, list[str]]:
        """The finished steps by the version that made them."""
        found: dict[str, list[str]] = {}
        for name in self.steps:
            found.setdefault(named((self._manifest(name) or {}).get("made_by")), []).append(name)
        return found

    def _manifest(self, name: str) -> dict[str, Any] | None:
        path = self.path / name / MANIFEST
        if not path.exists():
            return None
        manifest = read_json(path)
        if not {"fingerprint", "files", "summary"} <= manifest.keys():
            raise RunError(f"{path} is damaged: redo the step with --redo {name}")
        return manifest


def _is_begun(started: Mapping[str, Any], counted: Fingerprint, before: Fingerprint | None) -> bool:
    """Whether what stands in started.json is this step; version 0.1 noted no settings there."""
    return counted.known(str(started.get("fingerprint")), before, first_rule="settings" not in started)
