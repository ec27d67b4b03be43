"""Every setting of a recipe. Imports no torch."""

from pauserec.config.baselines import BaselineJob, Gru4recConfig, HstuConfig, SasrecConfig, SequentialSettings
from pauserec.config.recipe import RECIPES, Recipe, shipped_recipes
from pauserec.config.settings import (
    Columns,
    DataConfig,
    DecodingConfig,
    EmbedderConfig,
    EvaluatedModel,
    EvaluationConfig,
    ItemColumns,
    ModelConfig,
    PromptConfig,
    QuantizerConfig,
    Settings,
)
from pauserec.config.stages import (
    CorpusJob,
    CptConfig,
    ImplicitSftConfig,
    LoraSettings,
    NextItemJob,
    PausePretrainConfig,
    SftConfig,
    Stage,
    TrainingSettings,
)

__all__ = [
    "RECIPES",
    "BaselineJob",
    "Columns",
    "CorpusJob",
    "CptConfig",
    "DataConfig",
    "DecodingConfig",
    "EmbedderConfig",
    "EvaluatedModel",
    "EvaluationConfig",
    "Gru4recConfig",
    "HstuConfig",
    "ImplicitSftConfig",
    "ItemColumns",
    "LoraSettings",
    "ModelConfig",
    "NextItemJob",
    "PausePretrainConfig",
    "PromptConfig",
    "QuantizerConfig",
    "Recipe",
    "SasrecConfig",
    "SequentialSettings",
    "Settings",
    "SftConfig",
    "Stage",
    "TrainingSettings",
    "shipped_recipes",
]
