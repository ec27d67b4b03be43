"""Settings: unknown keys fail, errors name the key, and a dumped recipe reads back the same."""

import ast
import inspect
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauserec.config import (
    BaselineJob,
    Columns,
    CorpusJob,
    CptConfig,
    DataConfig,
    DecodingConfig,
    NextItemJob,
    PauseJob,
    PausePretrainConfig,
    Recipe,
    SasrecConfig,
    shipped_recipes,
)
from pauserec.config.settings import Settings
from pauserec.errors import RecipeError

B = {"name": "b", "kind": "sasrec"}
STAGES = [{"name": "cpt", "kind": "cpt"}, {"name": "sft", "kind": "sft"}]
PAUSE = {"name": "p", "kind": "pause_pretrain"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_parse_and_survive_a_dump(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name.rpartition("/")[2]
    (tmp_path / "dumped.toml").write_text(recipe.dump())
    assert Recipe.load(tmp_path / "dumped.toml") == recipe


@given(
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 900),
    st.sampled_from(["full", "codebook"]),
    st.floats(0.01, 30),
)
def test_any_recipe_survives_a_dump(layers: int | None, users: int | None, softmax: str, epochs: float) -> None:
    import tomllib

    stage = {"name": "sft", "kind": "sft", "starts_from": ["base"], "validation_users": users, "softmax": softmax}
    recipe = Recipe.parse({"name": "r", "model": {"layers": layers}, "stages": [stage | {"epochs": epochs}]})
    assert Recipe.parse(tomllib.loads(recipe.dump())) == recipe


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"nam": "x"}, "nam"),
        ({"name": "x", "data": {"sorce": "y"}}, "unknown setting 'data.sorce'"),
        ({"name": "x", "model": {"layers": 0}}, "model.layers"),
        ({"name": "x", "stages": [{"name": "sft", "kind": "sft"}]}, "starts from 'cpt'"),
        ({"name": "x", "stages": [*STAGES, {"name": "sft", "kind": "cpt"}]}, "two stages are named 'sft'"),
        ({"name": "x", "stages": [{"name": "a", "kind": "magic"}]}, "kind"),
        ({"name": "x", "evaluation": {"models": [{"name": "m", "stage": "gone"}]}}, "names stage 'gone'"),
        ({"name": "x", "baselines": [B], "evaluation": {"models": [{"name": "m", "stage": "b"}]}}, "names stage 'b'"),
        (
            {"name": "x", "evaluation": {"models": [{"name": "popularity", "stage": "base"}]}},
            "two rows .* 'popularity'",
        ),
        ({"name": "x", "evaluation": {"models": [{"name": "m", "stage": "base"}] * 2}}, "two rows .* 'm'"),
        ({"name": "x", "baselines": [B | {"name": "vectors"}]}, "'vectors' is the name of a step of every run"),
        ({"name": "x", "baselines": [B | {"name": "test-b"}]}, "'test-b' is the name of a step of every run"),
        (
            {
                "name": "x",
                "embedder": {"baseline": "b"},
                "baselines": [B | {"final_fit": "train+validation"}, {"name": "tiger", "kind": "tiger"}],
            },
            "'tiger' has final_fit = 'train' but builds on 'b'",
        ),
        (
            {"name": "x", "baselines": [B | {"final_fit": "train+validation", "epochs_from": "gone"}]},
            "takes its epochs from 'gone'",
        ),
        ({"name": "x", "baselines": [B, B | {"name": "c", "epochs_from": "b"}]}, "epochs_from is for a refit"),
        ({"name": "x", "decoding": {"beams": 5}}, "decoding.beams"),
        ({"name": "x", "stages": [STAGES[0] | {"layers": 2}]}, r"unknown setting 'stages\.cpt\.layers'"),
        ({"name": "x", "stages": [STAGES[0] | {"epochs": 0}]}, r"setting 'stages\.cpt\.epochs'"),
        ({"name": "x", "baselines": [B | {"batch_tokens": 0}]}, r"setting 'baselines\.b\.batch_tokens'"),
        ({"name": "x", "evaluation": {"baselines": "popularity"}}, r'baselines.*write a list, .*\["popularity"\]'),
        ({"name": "x", "stages": [*STAGES[:1], STAGES[1] | {"lora": 16}]}, r"stages\.sft\.lora': write a table"),
        ({"name": "x", "data": {"source": 2024}}, 'data.source.*in quotes: "2024"'),
        ({"name": "x", "model": {"layers": True}}, "layers is a number, not True"),
        ({"name": "x", "embedder": {"batch_size": "64"}}, "batch_size is a number, not '64'"),
        ({"name": "x", "stages": [STAGES[0] | {"epochs": float("inf")}]}, "finite"),
        ({"name": "x", "quantizer": {"codebook_sizes": [256] * 8}}, "more than 63 bits"),
        ({"name": "x", "quantizer": {"hidden": [0]}}, "hidden"),
        (
            {"name": "x", "stages": [*STAGES[:1], STAGES[1] | {"loss_on_end": True, "softmax": "codebook"}]},
            "loss_on_end needs softmax",
        ),
        (
            {"name": "x", "stages": [*STAGES, PAUSE, {"name": "s", "kind": "sft", "starts_from": ["p"]}]},
            "takes a model from .p., which gives a pause row",
        ),
        (
            {"name": "x", "stages": [*STAGES, {"name": "i", "kind": "implicit_sft", "starts_from": ["sft", "cpt"]}]},
            "takes a pause row from .cpt., which gives a model",
        ),
        (
            {"name": "x", "stages": [*STAGES, PAUSE], "evaluation": {"models": [{"name": "m", "stage": "p"}]}},
            r"names stage 'p'; known: \['cpt', 'sft'\]",
        ),
        ({"name": "x", "evaluation": {"models": [{"name": "m", "stage": "base"}]}}, "names stage 'base'"),
        ({"name": "x", "evaluation": {"models": [{"name": "sft/../dataset", "stage": "base"}]}}, "name"),
        ({"name": "x", "evaluation": {"models": [{"name": "a" * 101, "stage": "base"}]}}, "name"),
        ({"name": "x", "evaluation": {"models": [{"name": "a.partial", "stage": "base"}]}}, "unfinished step"),
    ],
)
def test_a_wrong_recipe_names_the_setting(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.parse(raw)


def test_overrides_reach_a_stage_by_its_name() -> None:
    overrides = ("stages.sft.epochs=2", "model.name=some/model", "data.source=../here", "model.layers=null")
    recipe = Recipe.parse({"name": "x", "stages": [dict(stage) for stage in STAGES]}, overrides)
    assert recipe.stages[1].epochs == 2
    assert recipe.model.name == "some/model"
    assert recipe.model.layers is None


@pytest.mark.parametrize(
    "override",
    ["epochs", "=3", "stages.epochs=2", "stages.nope.epochs=2", "name.x=1", "quantizer.codebook_sizes.0.x=5"],
)
def test_an_override_that_leads_nowhere_is_refused(override: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.parse(
            {"name": "x", "quantizer": {"codebook_sizes": [16]}, "stages": [dict(stage) for stage in STAGES]},
            (override,),
        )


def test_a_folder_that_looks_like_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "books.toml").mkdir()
    with pytest.raises(RecipeError, match="no recipe file"):
        Recipe.load(tmp_path / "books.toml")


def test_settings_cannot_be_changed(tiny_settings: Callable[..., dict[str, Any]]) -> None:
    recipe = Recipe.parse(tiny_settings())
    with pytest.raises(Exception, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


def test_a_strict_stage_may_not_build_on_a_refit() -> None:
    refit = ("stages.sft.final_fit=train+validation",)
    with pytest.raises(RecipeError, match="'implicit_sft' has final_fit = 'train' but builds on 'sft'"):
        Recipe.load("pauserec", refit)
    between = [
        {"name": "refit", "kind": "sft", "starts_from": ["base"], "final_fit": "train+validation"},
        {"name": "cpt", "kind": "cpt", "starts_from": ["refit"]},
    ]
    assert Recipe.parse({"name": "x", "stages": between}).fitted_on("cpt") == "train+validation"
    with pytest.raises(RecipeError, match="'sft' has final_fit = 'train' but builds on 'refit'"):
        Recipe.parse({"name": "x", "stages": [*between, STAGES[1]]})
    both = Recipe.load("pauserec", (*refit, "stages.implicit_sft.final_fit=train+validation"))
    assert {getattr(stage, "final_fit", None) for stage in both.stages} == {None, "train+validation"}


def test_a_baseline_refuses_what_only_language_models_know() -> None:
    with pytest.raises(RecipeError, match="sasrec: sharding is for language models"):
        Recipe.load("baselines/sasrec", ("baselines.sasrec.sharding=fsdp2",))


def test_a_setting_that_came_later_changes_an_identity_only_when_it_is_changed() -> None:
    settings = {"kind": "pause_pretrain", "name": "p"}
    plain, raw = (PausePretrainConfig.model_validate(settings | more) for more in ({}, {"pretrained": False}))
    later = {"attention", "pretrained", "loss_on_pauses", "minutes", "stop_when_broken", "save_minutes", "log_every"}
    as_written = {name: v for name, v in plain.model_dump(mode="json").items() if name not in later}
    assert plain.identity() == as_written | {"save_every": 200, "compile": False}, "what a default was counts on"
    assert raw.identity() == plain.identity() | {"pretrained": False}
    inside = PauseJob(stage=raw, precision="auto", history_length=5)
    assert inside.identity()["stage"] == raw.identity()


def test_how_the_hardware_is_used_enters_no_fingerprint_but_did_at_first() -> None:
    changes = {"compile": True, "gradient_checkpointing": True, "sharding": "fsdp2", "attention": "flex"}
    plain, other = (CptConfig.model_validate({"kind": "cpt", "name": "c"} | more) for more in ({}, changes))
    assert other.identity() == plain.identity()
    assert plain.identity(first_rule=True) == plain.identity() | {"tracking": ["tensorboard"]}
    as_written = {
        name: v
        for name, v in other.model_dump(mode="json").items()
        if name not in ("minutes", "stop_when_broken", "save_minutes", "log_every")
    }
    assert other.identity(first_rule=True) == as_written | {"tracking": ["tensorboard"], "save_every": 200}


def test_bookkeeping_enters_no_fingerprint() -> None:
    settings = {"save_every": 7, "tracking": ["comet_ml"]}
    for kind, name in ((CptConfig, "cpt"), (SasrecConfig, "sasrec")):
        plain, other = (kind.model_validate({"kind": name, "name": "x"} | more) for more in ({}, settings))
        assert other.identity() == plain.identity()
        assert other != plain
    first = CptConfig(kind="cpt", name="x", tracking=("comet_ml",)).identity(first_rule=True)
    assert first["tracking"] == ["tensorboard"], "the default of version 0.1, in all fingerprints of its time"
    assert SasrecConfig(kind="sasrec", name="x").identity()["tracking"] == []
    assert DecodingConfig(batch_tokens=64).identity() == DecodingConfig().identity()
    assert DecodingConfig(beams=64).identity() != DecodingConfig().identity()


def test_a_default_that_came_later_counted_at_first_as_the_one_of_before() -> None:
    auto, named, other, never = (DataConfig(columns=Columns(order=order)) for order in ("auto", "order", "place", None))
    assert auto == DataConfig()
    assert auto.identity() != named.identity()
    assert auto.identity(first_rule=True) == named.identity(first_rule=True) == named.identity()
    assert [data.identity()["columns"]["order"] for data in (named, other, never)] == ["order", "place", None]
    for written in ("auto", "order", "null"):
        recipe = Recipe.parse({"name": "x"}, (f"data.columns.order={written}",))
        assert recipe.data.columns.order == (None if written == "null" else written)
        assert Recipe.parse(tomllib.loads(recipe.dump())) == recipe


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_that_not_all_libraries_take_is_refused_at_once(seed: int) -> None:
    for setting in ("quantizer.seed", "embedder.seed", "model.seed", "stages.sft.seed"):
        with pytest.raises(RecipeError, match=setting):
            Recipe.load("quickstart", (f"{setting}={seed}",))


def test_a_seed_changes_all_training_and_nothing_else() -> None:
    recipe = Recipe.parse({"name": "r", "stages": STAGES, "baselines": [B], "embedder": {"baseline": "b"}})
    other = recipe.seeded(7)
    assert other.name == "r-seed7"
    assert {part.seed for part in (*other.stages, *other.baselines)} == {7}
    same = {"name", "stages", "baselines"}
    assert other.model_dump(exclude=same) == recipe.model_dump(exclude=same)
    assert other.seeded(0).model_dump(exclude={"name"}) == recipe.model_dump(exclude={"name"})


def test_a_seed_that_changes_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="'counts' trains nothing that a seed could change: leave --seed out"):
        Recipe.parse({"name": "counts"}).seeded(1)
    with pytest.raises(RecipeError, match=r"stages\.cpt\.seed"):
        Recipe.parse({"name": "r", "stages": STAGES}).seeded(-1)


def _with_subclasses(kind: type[Settings]) -> Iterator[type[Settings]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _with_subclasses(below)


def explained(kind: type[Settings]) -> set[str]:
    """Settings with a docstring under them in the class itself."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id
        for node, after in pairwise(body.body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)
    }


def test_every_setting_is_explained() -> None:
    """By the docstring under it, in its class or one that the class builds on. A `kind` is explained by its class."""
    jobs = (
        CorpusJob,
        PauseJob,
        NextItemJob,
        BaselineJob,
        Recipe,
    )  # not settings of their own, but sections and what steps get
    silent = [
        f"{kind.__name__}.{name}"
        for kind in _with_subclasses(Settings)
        if kind.__module__.startswith("pauserec.config.") and kind not in jobs
        for name in kind.model_fields
        if name != "kind"
        and not any(
            name in explained(base) for base in kind.__mro__ if issubclass(base, Settings) and name in base.model_fields
        )
    ]
    assert silent == []


def test_a_recipe_has_the_steps_it_needs_alone() -> None:
    assert "semantic_ids" not in Recipe.parse({"name": "x", "baselines": [B]}).steps
    assert Recipe.parse({"name": "x"}).steps == ("dataset", "test-popularity", "test-co-occurrence")
    tiger = Recipe.parse({"name": "x", "baselines": [{"name": "t", "kind": "tiger"}]})
    assert tiger.steps[:3] == ("dataset", "vectors", "semantic_ids")
    assert "base" in Recipe.parse({"name": "x", "stages": [dict(STAGES[0])]}).steps


def test_a_source_given_by_hand_replaces_the_files_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "r"\n[data]\ninteractions = "old.csv"\nitems = "old-items.csv"\n')
    data = Recipe.load(tmp_path / "mine.toml", ("data.source=other",)).data
    assert (data.source, data.interactions, data.items) == ("other", None, None)
    assert Recipe.load(tmp_path / "mine.toml", ("data.min_interactions=2",)).data.interactions == "old.csv"
    with pytest.raises(RecipeError, match=r"data\.source and data\.interactions name different data"):
        Recipe.load(tmp_path / "mine.toml", ("data.source=other", "data.interactions=new.csv"))
