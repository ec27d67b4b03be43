"""The run folder: a step is done once, redone when what it depends on changed, and believed only when its files verify."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from pauserec.config import Recipe, Settings
from pauserec.errors import RunError
from pauserec.runs.folder import Run
from pauserec.runs.origin import named, origin
from pauserec.runs.place import alone
from pauserec.runs.steps import FinishedStep

RECIPE = Recipe(name="r")


class Number(Settings):
    """Settings of a test step."""

    value: int


class Counter:
    """A step function that adds its settings to its inputs, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, settings: Number, *inputs: FinishedStep, out: Path, log: Any) -> dict[str, Any]:
        self.calls += 1
        total = settings.value + sum(int((step.path / "number").read_text()) for step in inputs)
        (out / "number").write_text(str(total))
        return {"total": total}


def pipeline(folder: Path, first: int, second: int, redo: tuple[str, ...] = ()) -> tuple[int, int, int]:
    """Two independent steps and one that needs both; gives how often each ran."""
    a, b, c = Counter(), Counter(), Counter()
    run = Run.open(RECIPE, folder, redo)
    steps = run.step("a", a, Number(value=first)), run.step("b", b, Number(value=second))
    assert run.step("c", c, Number(value=1), *steps).summary["total"] == first + second + 1
    return a.calls, b.calls, c.calls


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    assert pipeline(tmp_path / "run", 1, 2) == (1, 1, 1)
    assert pipeline(tmp_path / "run", 1, 2) == (0, 0, 0)


def test_a_change_redoes_what_depends_on_it_alone(tmp_path: Path) -> None:
    pipeline(tmp_path / "run", 1, 2)
    assert pipeline(tmp_path / "run", 1, 5) == (0, 1, 1)


def test_redo_does_one_step_again(tmp_path: Path) -> None:
    pipeline(tmp_path / "run", 1, 2)
    assert pipeline(tmp_path / "run", 1, 2, redo=("a",)) == (1, 0, 0)


def test_redone_with_other_content_it_redoes_what_was_made_from_it(tmp_path: Path) -> None:
    pipeline(tmp_path / "run", 1, 2)
    run, told = Run.open(RECIPE, tmp_path / "run", redo=("a",)), []
    run.on_step = lambda name, done: told.append((name, done))

    def otherwise(settings: Number, *, out: Path, log: Any) -> dict[str, Any]:
        (out / "tensorboard").mkdir()
        (out / "number").write_text("7")
        return {}

    a, b = run.step("a", otherwise, Number(value=1)), run.step("b", Counter(), Number(value=2))
    assert run.step("c", Counter(), Number(value=1), a, b).summary["total"] == 10
    assert told == [("a", False), ("b", True), ("c", False)]


def test_what_only_watches_a_step_is_no_content(tmp_path: Path) -> None:
    def watched(settings: Number, *, out: Path, log: Any) -> dict[str, Any]:
        (out / "tensorboard").mkdir()
        (out / "tensorboard" / "events").write_text(str(out.stat().st_mtime_ns))
        return {}

    first = Run.open(RECIPE, tmp_path / "run").step("a", watched, Number(value=1))
    second = Run.open(RECIPE, tmp_path / "run", redo=("a",)).step("a", watched, Number(value=1))
    assert first.content == second.content != ""


def test_a_raw_file_that_changed_is_read_again_and_one_that_is_gone_is_not_missed(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"

    def reads(settings: Number, *, out: Path, log: Any) -> dict[str, Any]:
        (out / "copy").write_bytes(raw.read_bytes())
        return {}

    def done() -> bool:
        told = []
        run = Run.open(RECIPE, tmp_path / "run")
        run.on_step = lambda name, done: told.append(done)
        run.step("a", reads, Number(value=1), files=(raw,))
        return told[0]

    raw.write_text("1")
    assert [done(), done()] == [False, True]
    raw.write_text("2")
    assert [done(), done()] == [False, True]
    raw.unlink()
    assert done()


def test_a_raw_file_that_came_is_read(tmp_path: Path) -> None:
    files = tmp_path / "events.csv", tmp_path / "items.csv"
    for number, file in enumerate(files, 1):
        file.write_text("1")
        for calls in (1, 0):
            step = Counter()
            Run.open(RECIPE, tmp_path / "run").step("a", step, Number(value=1), files=files[:number])
            assert step.calls == calls


def test_what_a_killed_write_left_is_no_part_of_the_step(tmp_path: Path) -> None:
    def killed(settings: Number, *, out: Path, log: Any) -> dict[str, Any]:
        (out / ".number.123.tmp").write_text("ha")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        Run.open(RECIPE, tmp_path / "run").step("a", killed, Number(value=1))
    step = Run.open(RECIPE, tmp_path / "run").step("a", Counter(), Number(value=1))
    assert sorted(path.name for path in step.path.iterdir()) == ["manifest.json", "number"]


def test_raw_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    files = (tmp_path / "events" / "data.csv", tmp_path / "items" / "data.csv")
    for file in files:
        file.parent.mkdir()
        file.write_text("1")
    for expected, text in ((1, "2"), (1, "2"), (0, "2")):
        step = Counter()
        Run.open(RECIPE, tmp_path / "run").step("a", step, Number(value=1), files=files)
        assert step.calls == expected
        files[0].write_text(text)


def test_a_step_whose_name_has_a_dot_is_found_again(tmp_path: Path) -> None:
    for expected in (1, 0):
        step = Counter()
        Run.open(RECIPE, tmp_path / "run").step("test-v1.2", step, Number(value=1))
        assert step.calls == expected


def test_a_step_that_failed_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def fails(settings: Number, *, out: Path, log: Any) -> dict[str, Any]:
        (out / "number").write_text("half")
        raise RuntimeError("stop")

    run = Run.open(RECIPE, tmp_path / "run")
    with pytest.raises(RuntimeError):
        run.step("a", fails, Number(value=1))
    with pytest.raises(RunError, match="no finished step 'a'"):
        run.finished("a")
    assert pipeline(tmp_path / "run", 1, 2) == (1, 1, 1)


def test_an_interrupted_step_of_other_settings_is_thrown_away(tmp_path: Path) -> None:
    partial = tmp_path / "run" / "a.partial"
    pipeline(tmp_path / "run", 1, 2)
    partial.mkdir()
    (partial / "started.json").write_text('{"fingerprint": "another"}')
    (partial / "leftover").write_text("from other settings")
    pipeline(tmp_path / "run", 3, 2)
    assert not (tmp_path / "run" / "a" / "leftover").exists()


@pytest.mark.parametrize("harm", ["change", "truncate", "delete"])
def test_a_harmed_file_is_refused(tmp_path: Path, harm: str) -> None:
    pipeline(tmp_path / "run", 1, 2)
    file = tmp_path / "run" / "a" / "number"
    if harm == "delete":
        file.unlink()
    else:
        file.write_text("" if harm == "truncate" else "7")
    with pytest.raises(RunError, match="--redo a"):
        Run.existing(tmp_path / "run").finished("a")


def test_a_foreign_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(RECIPE, tmp_path)
    with pytest.raises(RunError, match="is a file"):
        Run.open(RECIPE, tmp_path / "thesis.txt")
    with pytest.raises(RunError, match="no run folder"):
        Run.existing(tmp_path)


def test_a_step_killed_after_its_work_resumes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def trains(settings: Number, *, out: Path, log: Any) -> dict[str, Any]:
        (out / "training").mkdir(exist_ok=True)
        seen.append([path.name for path in (out / "training").iterdir()])
        (out / "training" / "checkpoint-9").touch()
        (out / "number").write_text("1")
        return {}

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pauserec.runs.folder.hashes", killed)
        with pytest.raises(KeyboardInterrupt):
            Run.open(RECIPE, tmp_path / "run").step("a", trains, Number(value=1))
    finished = Run.open(RECIPE, tmp_path / "run").step("a", trains, Number(value=1))
    assert seen == [[], ["checkpoint-9"]], "what resuming needs was still there"
    assert sorted(path.name for path in finished.path.iterdir()) == ["manifest.json", "number"]


def test_a_step_killed_on_its_way_to_its_place_is_done(tmp_path: Path) -> None:
    pipeline(tmp_path / "run", 1, 2)
    folder = tmp_path / "run" / "a"
    partial = folder.rename(folder.with_name("a.partial"))
    (partial / "started.json").write_text("{}")
    (partial / "training").mkdir()
    assert pipeline(tmp_path / "run", 1, 2) == (0, 0, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "number"]


def test_redo_mends_a_damaged_manifest(tmp_path: Path) -> None:
    pipeline(tmp_path / "run", 1, 2)
    (tmp_path / "run" / "a" / "manifest.json").write_text('{"finger')
    with pytest.raises(RunError, match="redo the step with --redo a"):
        pipeline(tmp_path / "run", 1, 2)
    assert pipeline(tmp_path / "run", 1, 2, redo=("a",)) == (1, 0, 0)


def test_a_redo_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    seen: list[bool] = []

    def trains(settings: Number, *, out: Path, log: Any) -> dict[str, Any]:
        seen.append((out / "checkpoint").exists())
        (out / "checkpoint").touch()
        if len(seen) == 2:
            raise KeyboardInterrupt
        return {}

    def again(*redo: str) -> None:
        Run.open(RECIPE, tmp_path / "run", redo).step("a", trains, Number(value=1))

    again()
    with pytest.raises(KeyboardInterrupt):
        again("a")
    assert (tmp_path / "run" / "a" / "checkpoint").exists(), "until it is redone, the old one stands"
    again("a")
    assert seen == [False, False, True], "the same command goes on"
    again()
    assert len(seen) == 3
    seen[:] = [False]
    with pytest.raises(KeyboardInterrupt):
        again("a")
    again()
    assert seen == [False, False, True], "so does one without --redo"


def test_one_process_at_a_time_runs_in_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "run"):
        with pytest.raises(RunError, match="another process is running in"), alone(tmp_path / "run"):
            pass
        Run.open(RECIPE, tmp_path / "run")
    with alone(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be made"), alone(tmp_path / "file" / "run"):
        pass
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot be opened"), alone(tmp_path / "run"):
        pass


def test_a_step_done_again_says_why(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []

    def again(value: int, *redo: str) -> None:
        run = Run.open(RECIPE, tmp_path / "run", redo)
        run.on_again = lambda name, why: said.append((name, why))
        first = run.step("a", Counter(), Number(value=value))
        run.step("b", Counter(), Number(value=1), first)

    again(1)
    again(1)
    assert said == []
    again(2)
    assert said == [("a", "value was 1 and is 2"), ("b", "what it is made from is made again")]
    said.clear()
    again(2, "a")
    assert said == [("a", "--redo")]


def test_a_manifest_names_the_version_that_made_it(tmp_path: Path) -> None:
    step = Run.open(RECIPE, tmp_path / "run").step("a", Counter(), Number(value=1))
    manifest = orjson.loads((step.path / "manifest.json").read_bytes())
    assert manifest["made_by"] == origin()
    assert manifest["made_by"]["version"]
    assert manifest["settings"] == {"value": 1}
    run = Run.open(RECIPE, tmp_path / "run")
    del manifest["made_by"]
    (step.path / "manifest.json").write_bytes(orjson.dumps(manifest))
    run.step("a", Counter(), Number(value=1))
    run.step("b", Counter(), Number(value=1))
    assert run.versions() == {"an earlier version": ["a"], named(origin()): ["b"]}


def test_finished_steps_of_another_folder_are_taken_over(tmp_path: Path) -> None:
    pipeline(tmp_path / "one", 1, 2)

    def reusing(first: int, second: int) -> tuple[int, int, int]:
        a, b, c = Counter(), Counter(), Counter()
        run = Run.open(RECIPE, tmp_path / f"other-{first}-{second}")
        run.reuse = (tmp_path / "one",)
        steps = run.step("a", a, Number(value=first)), run.step("b", b, Number(value=second))
        assert run.step("c", c, Number(value=1), *steps).summary["total"] == first + second + 1
        return a.calls, b.calls, c.calls

    assert reusing(1, 2) == (0, 0, 0)
    assert reusing(1, 3) == (0, 1, 1)
    taken = [path.name for path in (tmp_path / "other-1-2").iterdir()]
    assert not any(name.endswith(".partial") for name in taken)
    assert pipeline(tmp_path / "other-1-2", 1, 2) == (0, 0, 0)


def test_a_damaged_step_of_another_folder_is_not_taken_over(tmp_path: Path) -> None:
    pipeline(tmp_path / "one", 1, 2)
    (tmp_path / "one" / "a" / "number").write_text("7")
    run = Run.open(RECIPE, tmp_path / "other")
    run.reuse = (tmp_path / "one",)
    with pytest.raises(RunError, match="one/a/number"):
        run.step("a", Counter(), Number(value=1))
    assert not (tmp_path / "other" / "a").exists()
