"""Whether a recipe suits the machine and the data: refused before it trains, not found out after."""

from collections.abc import Mapping
from typing import Any

from pauserec.config import Recipe
from pauserec.errors import RecipeError
from pauserec.runs.device import best_device

INSTEAD = "`pauserec fit FILE` chooses settings that suit yours; --yes runs this one all the same"


def check_machine(recipe: Recipe) -> None:
    """Raise RecipeError for a recipe that is made for a GPU where there is none."""
    if recipe.made_for.gpu and best_device().type != "cuda":
        raise RecipeError(f"recipe {recipe.name!r} is made for a GPU, and this machine has none: {INSTEAD}")


def check_size(recipe: Recipe, summary: Mapping[str, Any]) -> None:
    """Raise RecipeError for data of another size than the recipe is made for. summary: of the dataset step."""
    made_for, instead = recipe.made_for, INSTEAD
    for kind, bound, found in (
        ("users", made_for.users, summary.get("users")),
        ("events", made_for.events, summary.get("interactions")),
    ):
        if found is not None and bound is not None and found < bound:
            raise RecipeError(
                f"recipe {recipe.name!r} is made for at least {bound:,} {kind}, and these logs have {found:,}: {instead}"
            )
    items = summary.get("items")
    if items is not None and made_for.items is not None and items > made_for.items:
        raise RecipeError(
            f"recipe {recipe.name!r} is made for at most {made_for.items:,} items, and these logs have {items:,}: {instead}"
        )
