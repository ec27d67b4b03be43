"""Settings of what is tested, against what, and by which rules."""

from typing import Literal

from pydantic import Field

from pauserec.config.settings import LATER, NAME, Settings


class CheckpointRow(Settings):
    """One row of the table that comes from a checkpoint."""

    kind: Literal["checkpoint"] = "checkpoint"
    """What the row is made of."""
    name: str = Field(pattern=NAME, max_length=100)
    """Name of the row, which is part of a folder's."""
    stage: str
    """Stage whose checkpoint is tested."""
    pauses: int | None = Field(default=None, ge=0, le=64)
    """Pauses in the prompt, instead of the number it was trained with."""

    @property
    def rests_on(self) -> tuple[str, ...]:
        """Steps that must be done before the row can be tested."""
        return (self.stage,)


EvaluatedRow = CheckpointRow
"""Every kind of row that a recipe can name under [[evaluation.models]]."""


class CooccurrenceSettings(Settings):
    """What co-occurrence counts and how it weighs it (baselines/counts.py has the formula).

    The defaults were chosen on the validation events of Amazon Beauty and Toys together (benchmarks/cooccurrence.py).
    """

    window: int = Field(default=20, ge=1)
    """Two events of one user count as co-occurring when at most this many positions apart."""
    distance_decay: float = Field(default=0.8, gt=0, le=1)
    """Weight of a co-occurrence relative to one that is one position closer; 1 counts all alike."""
    backward: float = Field(default=0.4, ge=0, le=1)
    """Weight of an item that came before, relative to one that came after; 1 makes the counts symmetric."""
    last: int = Field(default=20, ge=1)
    """Most recent items of a history that count."""
    decay: float = Field(default=0.65, gt=0, le=1)
    """Weight of an item relative to the one after it."""


class EvaluationConfig(Settings):
    """Full ranking over the catalogue, item level."""

    models: tuple[EvaluatedRow, ...] = ()
    """Checkpoints to test."""
    baselines: tuple[Literal["popularity", "co-occurrence"], ...] = ("popularity", "co-occurrence")
    """Baselines that only count."""
    final_fit: Literal["train", "train+validation"] = "train"
    """What these baselines count. Trained ones have a setting of their own."""
    cooccurrence: CooccurrenceSettings = CooccurrenceSettings()
    """Settings of co-occurrence."""
    seen: Literal["keep", "drop"] = "drop"
    """Whether items of the user's own history may be ranked."""
    top_k: int = Field(default=20, ge=10)
    """Items ranked per user; a target below is a miss."""
    users: int | None = Field(default=None, ge=1, json_schema_extra=LATER)
    """Users that every row is tested on, drawn once; null tests all."""
    bootstrap: int = Field(default=1000, ge=1)
    """Resamples of users behind each 95% confidence interval."""
