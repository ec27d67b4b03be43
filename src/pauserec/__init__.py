"""Recommendation with large language models that think without words."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pauserec.pipeline import run
    from pauserec.serving.recommend import load

from pauserec.config import Recipe
from pauserec.errors import PauserecError
from pauserec.records import Recommendations, Scored

__all__ = ["PauserecError", "Recipe", "Recommendations", "Scored", "load", "run"]
_LAZY = {"load": "pauserec.serving.recommend", "run": "pauserec.pipeline"}


def __getattr__(name: str) -> Any:
    """Load what needs torch on first use only."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'pauserec' has no attribute {name!r}")
