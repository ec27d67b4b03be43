"""The recipe: all settings of a run, read from TOML with overrides."""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from pauserec.config.baselines import Baseline, TigerConfig
from pauserec.config.budget import Budget
from pauserec.config.data import DataConfig
from pauserec.config.evaluation import EvaluationConfig
from pauserec.config.made_for import MadeFor
from pauserec.config.overrides import apply_override, choose_source, explain, replaced
from pauserec.config.settings import (
    BOOKKEEPING,
    LATER,
    NAME,
    DecodingConfig,
    EmbedderConfig,
    ModelConfig,
    PromptConfig,
    QuantizerConfig,
    Settings,
)
from pauserec.config.stages import Stage
from pauserec.config.training import Gives, Keep
from pauserec.config.update import Update
from pauserec.errors import RecipeError

RECIPES = Path(__file__).parents[1] / "recipes"


OWN_STEPS, TEST_STEP = ("dataset", "vectors", "semantic_ids", "base"), "test-"
"""Steps of every run, and how those begin that test a model."""
NOUNS: dict[Gives, str] = {"model": "a model", "row": "a pause row", "rationales": "rationales"}


_OF_STEP = {"dataset": "data", "vectors": "embedder", "semantic_ids": "quantizer", "base": "model"}


class Recipe(Settings):
    """A whole run, top to bottom."""

    name: str = Field(pattern=NAME, max_length=100)
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
    update: Update = Update()
    """The finished run that this one goes on from."""
    made_for: MadeFor = MadeFor()
    """Data and machine that its settings suit."""
    budget: Budget = Budget()
    """Time for the whole run."""
    keep: Keep = Field(default="rows", json_schema_extra=LATER | BOOKKEEPING)
    """What of the models stays in the run folder: what its table's rows need, once, or every stage's whole model."""

    @model_validator(mode="after")
    def _references(self) -> Self:
        self._check_names()
        self._check_starts()
        self._check_refits()
        for entry in (*self.stages, *self.over_ids):
            if getattr(entry, "final_fit", None) == "train":
                self._check_strict(entry)
        if self.embedder.baseline not in {None, *(baseline.name for baseline in self.over_items)}:
            raise ValueError(
                f"embedder.baseline {self.embedder.baseline!r} is no entry of [[baselines]] over items: add it there"
            )
        if self.decoding.beams < self.evaluation.top_k:
            raise ValueError(
                f"decoding.beams ({self.decoding.beams}) must be at least evaluation.top_k ({self.evaluation.top_k})"
            )
        return self

    def _check_starts(self) -> None:
        """Raises ValueError where a stage or a row starts from something that is not there, or is no model."""
        given: dict[str, Gives] = {"base": "model"}
        for stage in self.stages:
            for start, needed in zip(stage.starts_from, stage.needs, strict=True):
                if start not in given:
                    raise ValueError(f"stage {stage.name!r} starts from {start!r}; known before it: {sorted(given)}")
                if given[start] != needed and not (start == "base" and self.update.run):
                    raise ValueError(
                        f"stage {stage.name!r} takes {NOUNS[needed]} from {start!r}, which gives {NOUNS[given[start]]}: "
                        f"name one of {sorted(name for name, kind in given.items() if kind == needed)}"
                    )
            if stage.name in given:
                raise ValueError(f"two stages are named {stage.name!r}")
            given[stage.name] = stage.gives
        known = sorted(stage.name for stage in self.stages if stage.gives == "model")
        known += ["base"] if self.update.run else []
        for row in self.evaluation.models:
            for step in row.rests_on:
                if step not in known:
                    raise ValueError(f"evaluation.models {row.name!r} names stage {step!r}; known: {known}")

    def _check_refits(self) -> None:
        """Raises ValueError where a refit takes its epochs from something that was not validated before it."""
        for entries in (self.stages, (*self.over_items, *self.over_ids)):
            strict: list[str] = []
            for entry in entries:
                source = getattr(entry, "epochs_from", None)
                fit = getattr(entry, "final_fit", None)
                if source is not None and (fit == "train" or source not in strict):
                    raise ValueError(
                        f"{entry.name!r} takes its epochs from {source!r}: epochs_from is for a refit (final_fit = "
                        f"'train+validation') and names a validated one before it; known: {strict}"
                    )
                if fit == "train":
                    strict.append(entry.name)

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
            if name.endswith(".partial"):
                raise ValueError(f"evaluation.models {name!r} has the name of an unfinished step: choose another")
            if rows.count(name) > 1:
                raise ValueError(f"two rows of the table are named {name!r}: call one of evaluation.models otherwise")

    def _check_strict(self, stage: Stage | TigerConfig) -> None:
        """Raises ValueError if what a strict stage or baseline starts from, or its IDs, have seen validation events."""
        for entry in self._behind(stage.name):
            if getattr(entry, "final_fit", "train") == "train+validation":
                raise ValueError(
                    f"{stage.name!r} has final_fit = 'train' but builds on {entry.name!r}, which has 'train+validation': "
                    "give both the same"
                )

    def _behind(self, name: str) -> list[Stage | Baseline]:
        """The stage or baseline, all that it goes back to, and the baseline behind its IDs."""
        entries = {entry.name: entry for entry in (*self.stages, *self.baselines)}
        open_ = [name]
        if self.embedder.baseline and name not in {baseline.name for baseline in self.over_items}:
            open_.append(self.embedder.baseline)
        found: dict[str, Stage | Baseline] = {}
        while open_:
            entry = entries.get(open_.pop())
            if entry is not None and entry.name not in found:
                found[entry.name] = entry
                open_ += getattr(entry, "starts_from", ())
        return list(found.values())

    def fitted_on(self, name: str) -> Literal["train", "train+validation"]:
        """The events that a stage or baseline, what it goes back to and what made its IDs were fitted on, together."""
        fits = {getattr(entry, "final_fit", "train") for entry in self._behind(name)}
        return "train+validation" if "train+validation" in fits else "train"

    def setting_key(self, step: str, key: str) -> str:
        """What `--set` calls a setting that a step knows as `key`."""
        group, _, rest = key.partition(".")
        if step in _OF_STEP:
            return f"{_OF_STEP[step]}.{key}"
        return {
            "stage": f"stages.{step}.{rest}",
            "baseline": f"baselines.{step}.{rest}",
            "ranking": f"evaluation.{rest}",
        }.get(group, key)

    @property
    def trained(self) -> tuple[Stage | Baseline, ...]:
        """All that is trained."""
        return (*self.stages, *self.baselines)

    @property
    def last_model(self) -> str:
        """Name of the last stage that leaves a model; "base" if none does."""
        return next((stage.name for stage in reversed(self.stages) if stage.gives == "model"), "base")

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of all steps a run of this recipe has."""
        own = ("dataset", *(("vectors", "semantic_ids") * self.makes_ids), *(("base",) * bool(self.stages)))
        trained = [entry.name for entry in (*self.stages, *self.baselines)]
        return (*own, *trained, *(TEST_STEP + row for row in self.rows))

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all models that a run of this recipe tests, in the order of its table."""
        tested = (*self.over_items, *self.over_ids, *self.evaluation.models)
        return (*self.evaluation.baselines, *(entry.name for entry in tested))

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
        """Whether anything needs semantic IDs: a stage does, or a baseline over them. Counts and item models do not."""
        return bool(self.stages or self.over_ids)

    @property
    def beside_text(self) -> tuple[str, ...]:
        """Name of the baseline whose item vectors are joined to those of the text, if any."""
        return (self.embedder.baseline,) if self.embedder.baseline else ()

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
            apply_override(raw, override)
        choose_source(raw, {override.partition("=")[0].strip() for override in overrides})
        try:
            return cls.model_validate(replaced(raw, "null", None))
        except ValidationError as error:
            raise RecipeError(explain(error, raw)) from None

    def seeded(self, seed: int) -> Self:
        """The same recipe under another name, with `seed` for every stage and baseline: `compare` puts such runs in one row.

        Semantic IDs and the new tokens' first rows stay as they are, but for IDs that a baseline shapes. Raises RecipeError
        for a seed that is out of bounds, and where nothing is trained.
        """
        content = self.model_dump(mode="json")
        trained = [*content["stages"], *content["baselines"]]
        if not trained:
            raise RecipeError(f"recipe {self.name!r} trains nothing that a seed could change: leave --seed out")
        for part in trained:
            part["seed"] = seed
        return self.parse(content | {"name": f"{self.name}-seed{seed}"})

    def dump(self) -> str:
        """The resolved recipe as TOML, every default written out; "null" stands for none."""
        return tomli_w.dumps(replaced(self.model_dump(mode="json"), None, "null"))


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
    except OSError as error:
        raise RecipeError(f"no recipe file {path} ({error.strerror}): check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None
