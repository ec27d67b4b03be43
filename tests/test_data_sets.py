"""A test that lacks a package or data is skipped, and counted; data that are required fail it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import data_sets
from pauserec.errors import AssetError

TESTS = Path(__file__).parent
STATISTICS = "tests/data/test_dataset.py::test_published_statistics"


def run_tests(before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest on `arguments` in a process of its own, after the Python of `before`."""
    code = (
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n{before}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments, "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False, timeout=300)


def test_without_ranx_its_tests_are_skipped() -> None:
    done = run_tests("sys.modules['ranx'] = None", "tests/evaluation/test_against_ranx.py")
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), done.stdout
    assert "1 skipped" in done.stdout


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data_sets, "SHARED", tmp_path)


@pytest.mark.usefixtures("nothing")
def test_data_that_are_absent_skip_a_test_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAUSEREC_DATA", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"wants data: amazon is not in .*"):
        data_sets.shared("amazon")
    with pytest.raises(pytest.skip.Exception, match="wants data: minilm: no route to host"):
        data_sets.fetched("minilm", refused)


@pytest.mark.usefixtures("nothing")
def test_data_that_are_required_fail_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSEREC_DATA", "required")
    with pytest.raises(pytest.fail.Exception, match="amazon is not in"):
        data_sets.shared("amazon")
    with pytest.raises(pytest.fail.Exception, match="minilm: no route to host"):
        data_sets.fetched("minilm", refused)


def refused() -> Path:
    raise AssetError("no route to host")


def test_data_that_are_there_are_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data_sets, "SHARED", tmp_path)
    (tmp_path / "amazon").mkdir()
    assert data_sets.shared("amazon") == tmp_path / "amazon"
    assert data_sets.fetched("minilm", lambda: tmp_path) == tmp_path


def test_the_summary_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAUSEREC_DATA", raising=False)
    away = "import data_sets, pathlib\ndata_sets.SHARED = pathlib.Path('/nowhere')"
    done = run_tests(away, STATISTICS)
    assert done.returncode == 0, done.stdout
    assert "tests skipped for want of data: 3" in done.stdout.splitlines()
    monkeypatch.setenv("PAUSEREC_DATA", "required")
    assert "3 failed" in run_tests(away, STATISTICS).stdout


def test_no_test_leaves_data_out_by_itself() -> None:
    """Every way to data goes through `data_sets`, or would be skipped uncounted."""
    for path in TESTS.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name not in ("data_sets.py", "test_data_sets.py"):
            assert "../shared" not in text, path
            assert not re.search(r"except AssetError.*:\n\s+pytest\.skip", text), path
