"""Settings of the classical sequential recommenders that language models are compared with."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pauserec.config.settings import Settings
from pauserec.config.stages import ValidatedSettings


class SequentialSettings(ValidatedSettings):
    """What every trained baseline can set. `batch_tokens` counts items, padding included."""

    epochs: float = Field(default=100, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.0, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "constant_with_warmup"
    save_every: int = Field(default=1000, ge=1)
    tracking: tuple[str, ...] = ()
    history_length: int = Field(default=50, ge=1)
    """Most recent items of a history that the model sees."""
    width: int = Field(default=64, ge=2)
    """Width of item embeddings and hidden states."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    loss: Literal["full", "sampled", "bce"] = "full"
    """Softmax over all items, softmax over the target and sampled items, or binary cross-entropy with one sampled item."""
    negatives: int = Field(default=256, ge=1)
    """With loss = "sampled": items drawn per batch, shared by its targets."""
    validation_users: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=10, ge=1)


class _AttentionSettings(SequentialSettings):
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"{self.name}: width {self.width} is no multiple of heads {self.heads}: change one")
        return self


class SasrecConfig(_AttentionSettings):
    """SASRec (Kang & McAuley 2018)."""

    kind: Literal["sasrec"]


class Gru4recConfig(SequentialSettings):
    """GRU4Rec (Hidasi et al. 2016)."""

    kind: Literal["gru4rec"]
    layers: int = Field(default=1, ge=1)


class HstuConfig(_AttentionSettings):
    """HSTU (Zhai et al. 2024)."""

    kind: Literal["hstu"]


Baseline = Annotated[SasrecConfig | Gru4recConfig | HstuConfig, Field(discriminator="kind")]


class BaselineJob(Settings):
    """What training a baseline depends on: its settings, and how it is validated."""

    settings: Baseline
    seen: Literal["keep", "drop"]
