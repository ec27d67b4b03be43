"""A test that lacks a package is skipped."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


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
