"""Fingerprints: which steps a setting redoes, and how steps of earlier versions are known again."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import orjson
import pytest
from pydantic import BaseModel

from pauserec.config import PausePretrainConfig, Recipe
from pauserec.pipeline import fingerprints_before
from pauserec.runs.fingerprints import Fingerprint, changed_settings

TABLE = Path(__file__).with_name("redone.toml")
"""For every setting of the recipe below, the steps that a change redoes."""
OTHERWISE: dict[str, Any] = {
    "data.time.zero": "1899-12-30",
    "data.time.format": "%Y",
    "data.quotes": "none",
    "data.encoding": "utf-16",
    "data.ids": ["case"],
    "data.interactions": None,
    "data.items": None,
    "data.delimiter": ";",
    "embedder.baseline": "sasrec",
    "prompt.template": None,
    "decoding.batch_tokens": 64,
    "stages.cpt.starts_from": None,
    "stages.sft.starts_from": ["base"],
    "stages.refit.starts_from": ["base"],
    "stages.pause_pretrain.starts_from": ["sft"],
    "stages.implicit_sft.starts_from": ["cpt", "pause_pretrain"],
    "stages.sft.final_fit": None,
    "stages.implicit_sft.distill": None,
    **{f"stages.{name}.loss_on_end": None for name in ("sft", "refit", "implicit_sft")},
    **{f"stages.{name}.lora": {"rank": 8} for name in ("sft", "refit", "implicit_sft")},
    **{
        f"baselines.{name}.{setting}": None
        for name in ("sasrec", "refitted", "tiger")
        for setting in ("gradient_checkpointing", "compile", "sharding")
    },
    **{f"stages.{name}.tracking": ["wandb"] for name in ("cpt", "sft", "refit", "pause_pretrain", "implicit_sft")},
    **{f"baselines.{name}.tracking": ["wandb"] for name in ("sasrec", "refitted", "tiger")},
    **{f"evaluation.models.{name}.stage": "cpt" for name in ("sft", "refit", "pauserec", "pauserec-k0")},
    "evaluation.top_k": 19,
    "stages.refit.epochs_from": "sft",
    "baselines.refitted.epochs_from": "sasrec",
    "stages.implicit_sft.fields": ["title", "categories"],
    "evaluation.baselines": ["popularity"],
}
"""Other values for settings that no rule finds one for; None where no other is possible in this recipe."""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The quickstart's stages, a refit and three baselines beside them."""
    content = Recipe.load("quickstart").model_dump(mode="json")
    (sft,) = (stage for stage in content["stages"] if stage["name"] == "sft")
    content["stages"].append(sft | {"name": "refit", "final_fit": "train+validation"})
    content["evaluation"]["models"].append({"name": "refit", "stage": "refit"})
    content["baselines"] = [
        {"name": "sasrec", "kind": "sasrec"},
        {"name": "refitted", "kind": "sasrec", "final_fit": "train+validation"},
        {"name": "tiger", "kind": "tiger"},
    ]
    return Recipe.parse(content)


def fingerprints(recipe: Recipe, folder: Path) -> dict[str, Fingerprint]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(recipe.dump())
    return fingerprints_before(folder)


def settings(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, BaseModel, str]]:
    """Every setting as `--set` names it, the object it stands in, and its own name."""
    for name in type(node).model_fields:
        value = getattr(node, name)
        if isinstance(value, BaseModel):
            yield from settings(value, (*path, name))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for entry in value:
                yield from settings(entry, (*path, name, entry.name))
        elif name not in ("name", "kind") or len(path) < 2:
            yield ".".join((*path, name)), node, name


def another(key: str, node: BaseModel, name: str) -> Any:
    """Another value that the setting can have; None if there is none."""
    if key in OTHERWISE:
        return OTHERWISE[key]
    value, kind = getattr(node, name), type(node).model_fields[name].annotation
    kinds = [kind, *get_args(kind)] if get_origin(kind) in (Union, type(int | None)) else [kind]
    for choice in kinds:
        if get_origin(choice) is Literal and not isinstance(value, int):
            return next(option for option in get_args(choice) if option != value)
    if isinstance(value, bool) or (value is None and bool in kinds):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.25
    if isinstance(value, tuple):
        return (
            [*value, "more"] if value and isinstance(value[0], str) else [*value[:-1], value[-1] + 1] if value else None
        )
    if isinstance(value, str):
        return value + "2"
    return 3 if int in kinds else None


def changed(recipe: Recipe, key: str, value: Any) -> Recipe:
    content = recipe.model_dump(mode="json")
    node: Any = content
    *parents, last = key.split(".")
    for part in parents:
        node = next(entry for entry in node if entry["name"] == part) if isinstance(node, list) else node[part]
    node[last] = value
    return Recipe.parse(content)


def redone(recipe: Recipe, folder: Path) -> dict[str, list[str]]:
    """By setting, the steps that a change of it redoes."""
    plain, found = fingerprints(recipe, folder), {}
    for key, node, name in settings(recipe):
        value = another(key, node, name)
        if value is not None:
            other = fingerprints(changed(recipe, key, value), folder)
            found[key] = [step for step in plain if step not in other or other[step].now != plain[step].now]
    return found


def test_every_setting_redoes_the_steps_of_the_table(recipe: Recipe, tmp_path: Path) -> None:
    assert redone(recipe, tmp_path / "run") == tomllib.loads(TABLE.read_text())


FIRST = orjson.loads(Path(__file__).with_name("first_version.json").read_bytes())
"""A recipe as version 0.1 wrote it out, and the fingerprints of its steps there, for some changes of it."""


OTHER_TEXT = {
    "cpt",
    "sft",
    "test-sft",
    "pause_pretrain",
    "implicit_sft",
    "test-pauserec",
    "test-pauserec-k0",
    "refit",
    "test-refit",
}
"""Steps from running text, whose spaces stood elsewhere in version 0.1, and what is made from them: they are made again."""


@pytest.mark.parametrize("variant", FIRST["variants"])
def test_steps_of_the_first_version_are_known_again(variant: str, tmp_path: Path) -> None:
    written = FIRST["variants"][variant]
    recipe = Recipe.parse(tomllib.loads(FIRST["recipe"]), tuple(written["set"]))
    known = {
        step: one.known(written["fingerprints"][step], one, first_rule=True)
        for step, one in fingerprints(recipe, tmp_path).items()
    }
    assert known == {step: step not in OTHER_TEXT for step in known}


def test_what_counts_no_more_redoes_nothing_that_the_first_version_did(tmp_path: Path) -> None:
    """A stage that was compiled there and is not now, for example: the recipe in the folder says what was made."""
    plain = fingerprints(Recipe.parse(tomllib.loads(FIRST["recipe"])), tmp_path / "plain")
    kept = {"dataset", "vectors", "semantic_ids", "base", "refitted"}
    for variant, redone in (("hardware", OTHER_TEXT), ("kept", set(plain) - kept)):
        written = FIRST["variants"][variant]
        before = fingerprints(Recipe.parse(tomllib.loads(FIRST["recipe"]), tuple(written["set"])), tmp_path / variant)
        fresh = {
            step
            for step in plain
            if not plain[step].known(written["fingerprints"][step], before[step], first_rule=True)
        }
        assert fresh == redone, variant


def test_what_changed_is_said_by_name() -> None:
    before, now = {"a": 1, "b": {"c": [1], "d": "x"}}, {"a": 1, "b": {"c": [2]}, "e": None}
    assert (
        changed_settings(before, now) == 'b.c was [1] and is [2]; b.d was "x" and is not set; e was not set and is null'
    )
    assert changed_settings(before, before) == ""


def test_settings_are_named_as_the_command_line_takes_them() -> None:
    recipe = Recipe.load("quickstart")
    for step, key, called in (
        ("dataset", "columns.order", "data.columns.order"),
        ("sft", "stage.epochs", "stages.sft.epochs"),
        ("test-sft", "ranking.seen", "evaluation.seen"),
        ("sft", "decoding.beams", "decoding.beams"),
    ):
        assert recipe.setting_key(step, key) == called


def test_a_row_that_is_not_trained_has_no_epochs_to_count() -> None:
    untrained = {"kind": "pause_pretrain", "name": "pause", "pretrained": False}
    one, other = (PausePretrainConfig.model_validate(untrained | {"epochs": epochs}).identity() for epochs in (1, 3))
    assert one == other
    assert PausePretrainConfig.model_validate(untrained | {"init_noise": 0.1}).identity() != one
