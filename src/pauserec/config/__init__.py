"""Every setting of a recipe. Imports no torch."""

from pauserec.config.baselines import (
    Baseline,
    BaselineJob,
    BaselineSettings,
    Bert4recConfig,
    Gru4recConfig,
    HgnConfig,
    HstuConfig,
    RearecConfig,
    SasrecConfig,
    SequentialSettings,
    TigerConfig,
)
from pauserec.config.budget import Budget
from pauserec.config.data import Columns, DataConfig, IdRule, ItemColumns, TimeConfig
from pauserec.config.evaluation import CheckpointRow, CooccurrenceSettings, EvaluatedRow, EvaluationConfig
from pauserec.config.made_for import MadeFor
from pauserec.config.recipe import RECIPES, Recipe, shipped_recipes
from pauserec.config.settings import (
    DecodingConfig,
    EmbedderConfig,
    EntryWords,
    ModelConfig,
    PromptConfig,
    QuantizerConfig,
    Settings,
)
from pauserec.config.stages import (
    CorpusJob,
    CptConfig,
    ImplicitSftConfig,
    NextItemJob,
    PauseJob,
    PausePretrainConfig,
    SftConfig,
    Stage,
)
from pauserec.config.training import Format, Keep, LanguageTraining, LoraSettings, TrainingSettings, ValidatedSettings
from pauserec.config.update import Update, UpdateJob

__all__ = [
    "RECIPES",
    "Baseline",
    "BaselineJob",
    "BaselineSettings",
    "Bert4recConfig",
    "Budget",
    "CheckpointRow",
    "Columns",
    "CooccurrenceSettings",
    "CorpusJob",
    "CptConfig",
    "DataConfig",
    "DecodingConfig",
    "EmbedderConfig",
    "EntryWords",
    "EvaluatedRow",
    "EvaluationConfig",
    "Format",
    "Gru4recConfig",
    "HgnConfig",
    "HstuConfig",
    "IdRule",
    "ImplicitSftConfig",
    "ItemColumns",
    "Keep",
    "LanguageTraining",
    "LoraSettings",
    "MadeFor",
    "ModelConfig",
    "NextItemJob",
    "PauseJob",
    "PausePretrainConfig",
    "PromptConfig",
    "QuantizerConfig",
    "RearecConfig",
    "Recipe",
    "SasrecConfig",
    "SequentialSettings",
    "Settings",
    "SftConfig",
    "Stage",
    "TigerConfig",
    "TimeConfig",
    "TrainingSettings",
    "Update",
    "UpdateJob",
    "ValidatedSettings",
    "shipped_recipes",
]
