"""The forge's workflows run what a contributor runs, on every supported Python."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github/workflows"


def workflow(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text()))


def test_checks_run_the_ci_line_on_every_supported_python() -> None:
    job = workflow("checks")["jobs"]["checks"]
    low, high = re.findall(
        r"3\.(\d+)", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(low), int(high))]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


def test_a_release_is_published_only_after_the_checks_and_without_a_token() -> None:
    jobs = workflow("release")["jobs"]
    assert jobs["checks"]["uses"] == "./.github/workflows/checks.yml"
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("checks", "build")
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (WORKFLOWS / "release.yml").read_text()


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_may_read_the_repository_and_no_more_unless_a_job_says_so(path: Path) -> None:
    assert workflow(path.stem)["permissions"] == {"contents": "read"}
