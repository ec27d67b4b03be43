"""Trackers: what watches a training from outside, by accelerate's names."""

from collections.abc import Iterable

from pauserec.config import TrainingSettings
from pauserec.errors import RecipeError


def check_trackers(stages: Iterable[TrainingSettings]) -> None:
    """Raise RecipeError, before anything is done, where a stage names a tracker that is unknown or not installed."""
    wanted = [(stage.name, tracker) for stage in stages for tracker in stage.tracking]
    if not wanted:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = [str(tracker) for tracker in get_available_trackers()]
    for stage, tracker in wanted:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise RecipeError(f"{stage}: tracking knows no {tracker!r}, only {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if tracker not in installed:
            extra = "pip install 'pauserec[tensorboard]'" if tracker == "tensorboard" else f"pip install {tracker}"
            raise RecipeError(f"{stage}: the tracker {tracker!r} is not installed: {extra}, or leave it out")
