"""What data and what machine a recipe is made for."""

from pydantic import Field

from pauserec.config.settings import Settings


class MadeFor(Settings):
    """Outside of this a run is refused unless it is told --yes: it would train for long and give nothing of use."""

    gpu: bool = False
    """Whether it needs a GPU."""
    users: int | None = Field(default=None, ge=1)
    """Fewest users, after cleaning."""
    events: int | None = Field(default=None, ge=1)
    """Fewest events, after cleaning."""
    items: int | None = Field(default=None, ge=1)
    """Most items, after cleaning."""
