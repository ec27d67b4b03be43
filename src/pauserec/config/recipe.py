"""The recipe: all settings of a run, read from TOML with overrides."""

import tomllib
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from pauserec.config.baselines import Baseline, TigerConfig
from pauserec.config.settings import (
    DataConfig,
    DecodingConfig,
    EmbedderConfig,
    EvaluationConfig,
    ModelConfig,
    PromptConfig,
    QuantizerConfig,
    Settings,
)
from pauserec.config.stages import Stage
from pauserec.errors import RecipeError

RECIPES = Path(__file__).parents[1] / "recipes"


OWN_STEPS, TEST_STEP = ("dataset", "vectors", "semantic_ids", "base"), "test-"
"""Steps of every run, and how those begin that test a model."""


class Recipe(Settings):
    """A whole run, top to bottom."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*$")
    """Name of the recipe, and of the run folder unless --out is given."""
    data: DataConfig = DataConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    stages: tuple[Stage, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    """Classical recommenders to train and test beside the stages' models."""
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _references(self) -> Self:
        known = {"base"}
        for stage in self.stages:
            for start in stage.starts_from:
                if start not in known:
                    raise ValueError(f"stage {stage.name!r} starts from {start!r}; known before it: {sorted(known)}")
            if stage.name in known - {"base"}:
                raise ValueError(f"two stages are named {stage.name!r}")
            if getattr(stage, "final_fit", None) == "train":
                self._check_strict(stage)
            known.add(stage.name)
        for model in self.evaluation.models:
            if model.stage not in known:
                raise ValueError(
                    f"evaluation.models {model.name!r} names stage {model.stage!r}; known: {sorted(known)}"
                )
        for baseline in self.over_ids:
            if baseline.final_fit == "train":
                self._check_strict(baseline)
        self._check_names()
        if self.embedder.baseline not in {None, *(baseline.name for baseline in self.over_items)}:
            raise ValueError(
                f"embedder.baseline {self.embedder.baseline!r} is no entry of [[baselines]] over items: add it there"
            )
        if self.decoding.beams < self.evaluation.top_k:
            raise ValueError(
                f"decoding.beams ({self.decoding.beams}) must be at least evaluation.top_k ({self.evaluation.top_k})"
            )
        return self

    def _check_names(self) -> None:
        """Raises ValueError where two rows of the table, or two steps of the run, would have one name."""
        stages, baselines = ([entry.name for entry in entries] for entries in (self.stages, self.baselines))
        for name in (*stages, *baselines):
            if name in OWN_STEPS or name.startswith(TEST_STEP):
                raise ValueError(f"{name!r} is the name of a step of every run: call the stage or baseline otherwise")
        rows = [*self.evaluation.baselines, *(model.name for model in self.evaluation.models)]
        for name in baselines:
            if name in stages or name in rows or baselines.count(name) > 1:
                raise ValueError(f"baseline {name!r} has the name of something else: choose another")
        for name in rows:
            if rows.count(name) > 1:
                raise ValueError(f"two rows of the table are named {name!r}: call one of evaluation.models otherwise")

    def _check_strict(self, stage: Stage | TigerConfig) -> None:
        """Raises ValueError if what a strict stage or baseline starts from, or its IDs, have seen validation events."""
        fits = {entry.name: getattr(entry, "final_fit", "train") for entry in (*self.stages, *self.baselines)}
        for name in (*getattr(stage, "starts_from", ()), self.embedder.baseline):
            if name and fits.get(name) == "train+validation":
                raise ValueError(
                    f"{stage.name!r} has final_fit = 'train' but builds on {name!r}, which has 'train+validation': give "
                    "both the same"
                )

    @property
    def over_items(self) -> tuple[Baseline, ...]:
        """Baselines that know items by number."""
        return tuple(baseline for baseline in self.baselines if not isinstance(baseline, TigerConfig))

    @property
    def over_ids(self) -> tuple[TigerConfig, ...]:
        """Baselines that know items by their semantic IDs."""
        return tuple(baseline for baseline in self.baselines if isinstance(baseline, TigerConfig))

    @property
    def makes_ids(self) -> bool:
        """Whether anything needs semantic IDs; a recipe that trains nothing is there to make them."""
        return bool(self.stages or self.over_ids or not self.baselines)

    @classmethod
    def load(cls, recipe: str | Path, overrides: tuple[str, ...] = ()) -> Self:
        """Read a recipe by shipped name or by path, then apply `KEY=VALUE` overrides (dotted keys, TOML values).

        A stage is addressed by its name: `stages.sft.epochs=2`. Raises RecipeError.
        """
        return cls.parse(_read(recipe), overrides)

    @classmethod
    def parse(cls, raw: dict[str, Any], overrides: tuple[str, ...] = ()) -> Self:
        """Check a recipe given as nested dicts. Raises RecipeError naming the key at fault."""
        for override in overrides:
            _apply(raw, override)
        try:
            return cls.model_validate(_replace(raw, "null", None))
        except ValidationError as error:
            raise RecipeError(_explain(error)) from None

    def dump(self) -> str:
        """The resolved recipe as TOML, every default written out; "null" stands for none."""
        return tomli_w.dumps(_replace(self.model_dump(mode="json"), None, "null"))


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.toml"))


def _read(recipe: str | Path) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix != ".toml":
        path = RECIPES / f"{recipe}.toml"
        if not path.exists():
            raise RecipeError(f"no recipe {recipe!r}: give a .toml file or one of {', '.join(shipped_recipes())}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe file {path}: check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None


def _replace(value: Any, old: Any, new: Any) -> Any:
    """`value` with `old` turned into `new` at every depth."""
    if isinstance(value, dict):
        return {key: _replace(entry, old, new) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(entry, old, new) for entry in value]
    return new if value == old and type(value) is type(old) else value


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: write KEY=VALUE, for example --set model.layers=4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    node: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = next((entry for entry in node if entry.get("name") == part), None)
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {key}: there is no {'.'.join(parents[: depth + 1])} in this recipe")
    if not isinstance(node, dict):
        raise RecipeError(f"--set {key}: name the entry too, for example stages.sft.{last}=...")
    node[last] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown setting {where!r}: remove it or check its spelling"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"setting {where!r}: {message}{more}" if where else f"recipe: {message}{more}"
