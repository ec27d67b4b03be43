"""The time of a whole run: what a training may take of it, and how much of it is left."""

from collections.abc import Collection, Mapping

from pauserec.config import Recipe
from pauserec.runs.steps import FinishedStep

LEAST = 20.0
"""Seconds that a training gets where the steps before it used up its time: enough to leave a model."""
SLOWEST = 2.0
"""The largest factor by which slow steps so far make the coming ones look slower."""


def pace(expected: Mapping[str, float], seconds: Mapping[str, float]) -> float:
    """How many times slower than expected the finished steps were, at least 1. seconds: of each finished step."""
    known = [name for name in seconds if expected.get(name, 0.0) > 0]
    planned = sum(expected[name] for name in known)
    return min(SLOWEST, max(1.0, sum(seconds[name] for name in known) / planned)) if planned else 1.0


def seconds_of(steps: Mapping[str, FinishedStep]) -> dict[str, float]:
    """What each finished step took, all attempts together."""
    return {name: float(step.summary.get("seconds", 0.0)) for name, step in steps.items()}


def share(recipe: Recipe, steps: Mapping[str, FinishedStep], name: str) -> float | None:
    """Seconds that the training `name` may take, by what the finished `steps` took; None where there is no budget.

    What the steps that train nothing are expected to take is set aside; trainings divide the rest as they are expected to.
    """
    budget = recipe.budget
    if budget.minutes is None:
        return None
    seconds = seconds_of(steps)
    trainings = {entry.name for entry in (*recipe.stages, *recipe.baselines)} - seconds.keys() | {name}
    others = set(recipe.steps) - seconds.keys() - trainings
    slower = pace(budget.expected, {step: taken for step, taken in seconds.items() if step not in trainings})
    left = 60 * budget.minutes - budget.spent - sum(seconds.values()) - slower * _expected(budget.expected, others)
    whole = _expected(budget.expected, trainings)
    part = budget.expected.get(name, 0.0) / whole if whole else 1 / len(trainings)
    return max(LEAST, left * part)


def _expected(expected: Mapping[str, float], names: Collection[str]) -> float:
    return sum(expected.get(name, 0.0) for name in names)
