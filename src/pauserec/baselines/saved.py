"""A trained baseline's folder: weights, and settings that say which model they belong to."""

from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pauserec.baselines.popularity import WEIGHTS
from pauserec.config import Baseline, BaselineJob, BaselineSettings
from pauserec.errors import RunError
from pauserec.runs.files import write_atomically

SETTINGS = "settings.json"


def write_model(folder: Path, model: nn.Module, settings: BaselineSettings, **about: Any) -> None:
    """Write weights, settings and what else building the model takes."""
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, folder / WEIGHTS)
    content = about | {"settings": settings.model_dump(mode="json")}
    write_atomically(folder / SETTINGS, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def read_settings(folder: Path) -> tuple[Baseline, dict[str, Any]]:
    """Settings, and what else was written with them. Raises RunError."""
    try:
        about = orjson.loads((folder / SETTINGS).read_bytes())
        return BaselineJob.model_validate({"settings": about["settings"], "seen": "keep"}).settings, about
    except FileNotFoundError:
        raise RunError(f"{folder / SETTINGS} is missing: train the baseline again") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError):
        raise RunError(f"{folder} is damaged: train the baseline again") from None


def read_weights(folder: Path, model: nn.Module) -> None:
    """Put the weights of a folder into a model built from its settings. Raises RunError."""
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise RunError(f"{folder / WEIGHTS} is missing: train the baseline again") from None
    except (SafetensorError, RuntimeError):
        raise RunError(f"{folder} is damaged: train the baseline again") from None
