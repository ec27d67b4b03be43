"""Settings of the time that a whole run may take."""

from pydantic import Field

from pauserec.config.settings import Settings


class Budget(Settings):
    """How long a run may take, all attempts together. `pauserec fit` writes it; without it a run takes what it takes."""

    minutes: float | None = Field(default=None, gt=0)
    """All steps together. Whatever trains gets its share of what the other steps leave, and shortens its schedule to it."""
    spent: float = Field(default=0.0, ge=0)
    """Seconds of it that went by before the run, while its recipe was chosen."""
    expected: dict[str, float] = Field(default_factory=dict)
    """Seconds that each step is expected to take, by its name: shares of the budget, and the time that is shown as left."""
