"""Where a run may be: nobody else's files are touched, and a refused run leaves its folder as it was."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pauserec
from pauserec.cli.plan import make_plan
from pauserec.config import Recipe
from pauserec.errors import PauserecError, RunError
from pauserec.pipeline import run
from pauserec.runs.folder import Run
from pauserec.runs.place import check_place, rerun


def test_raw_data_beside_a_recipe_are_not_taken_for_a_run(
    tiny_settings: Callable[..., dict[str, Any]], small_data: Path, tmp_path: Path
) -> None:
    """`--out .` where `dataset/` holds the logs: the step of that name would have taken their place."""
    shutil.copytree(small_data, tmp_path / "dataset")
    recipe = Recipe.parse(tiny_settings() | {"data": {"source": str(tmp_path / "dataset")}})
    (tmp_path / "recipe.toml").write_text(written := "# mine\n" + recipe.dump())
    before = {path: path.read_bytes() for path in (tmp_path / "dataset").iterdir()}
    for attempt in (lambda: run(recipe, tmp_path), lambda: make_plan(recipe, tmp_path, ())):
        with pytest.raises(RunError, match="not a run folder"):
            attempt()
    assert {path: path.read_bytes() for path in (tmp_path / "dataset").iterdir()} == before
    assert (tmp_path / "recipe.toml").read_text() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "recipe.toml"]


@pytest.mark.parametrize("name", ["a", "a.partial"])
def test_a_folder_no_run_wrote_is_never_removed(tmp_path: Path, name: str) -> None:
    folder = Run.open(Recipe(name="r"), tmp_path / "run")
    (folder.path / name).mkdir()
    (folder.path / name / "diary.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files that no run wrote: move them away"):
        folder.step("a", lambda *_, out, log: None, None)
    assert (folder.path / name / "diary.txt").read_text() == "mine"


def test_a_recipe_written_by_hand_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "r"  # mine\n')
    with pytest.raises(RunError, match="not a run folder"):
        check_place(tmp_path)
    (tmp_path / "recipe.toml").write_text(Recipe(name="r").dump())
    (tmp_path / ".recipe.toml.1.tmp").write_text("half a rec")
    check_place(tmp_path)  # a run that was killed before its first step


@pytest.mark.parametrize(
    "refused",
    [
        {"quantizer": {"codebook_sizes": [2]}},
        {"data": {"min_interactions": 1000}},
    ],
)
def test_a_refused_run_leaves_a_finished_one_usable(tiny_run: Path, tmp_path: Path, refused: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    before = (folder / "recipe.toml").read_text()
    content = Recipe.load(folder / "recipe.toml").model_dump(mode="json")
    for part, settings in refused.items():
        content[part] |= settings
    with pytest.raises(PauserecError):
        pauserec.run(Recipe.parse(content), str(folder))
    assert (folder / "recipe.toml").read_text() == before
    assert pauserec.load(folder).recommend([["i1"]], k=2)


def test_commands_to_copy_are_for_a_shell(tmp_path: Path) -> None:
    assert rerun(Path("my run")) == "`pauserec run 'my run/recipe.toml' --out 'my run'`"
