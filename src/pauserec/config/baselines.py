"""Settings of the classical sequential recommenders that language models are compared with."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pauserec.config.settings import BOOKKEEPING, LATER, Settings
from pauserec.config.training import ValidatedSettings


class BaselineSettings(ValidatedSettings):
    """What every trained baseline can set. `batch_tokens` counts items (for TIGER codes), padding included."""

    epochs: float = Field(default=100, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.0, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "constant_with_warmup"
    save_every: int = Field(default=1000, ge=1, json_schema_extra=BOOKKEEPING)
    tracking: tuple[str, ...] = Field(default=(), json_schema_extra=BOOKKEEPING)
    validation_users: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _small(self) -> Self:
        if self.batch_tokens == "auto":
            raise ValueError(f"{self.name}: batch_tokens is a number: auto is for language models")
        for name in ("sharding", "compile", "gradient_checkpointing"):
            if getattr(self, name) not in (False, type(self).model_fields[name].default):
                raise ValueError(
                    f"{self.name}: {name} is for language models, a baseline knows nothing of it: leave it out"
                )
        return self


class SequentialSettings(BaselineSettings):
    """What every model over items can set."""

    history_length: int = Field(default=50, ge=1)
    """Most recent items of a history that the model sees."""
    width: int = Field(default=64, ge=2)
    """Width of item embeddings and hidden states."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout on embeddings and within layers."""
    loss: Literal["full", "sampled", "bce"] = "full"
    """Softmax over all items, softmax over the target and sampled items, or binary cross-entropy with one sampled item."""
    negatives: int = Field(default=256, ge=1)
    """With loss = "sampled": items drawn for the softmax."""
    negatives_for: Literal["batch", "target"] = Field(default="batch", json_schema_extra=LATER)
    """Draw them once a batch, shared by its targets, or for each target anew (as RecTools does; as slow as all items)."""


class _AttentionSettings(SequentialSettings):
    layers: int = Field(default=2, ge=1)
    """Attention layers."""
    heads: int = Field(default=1, ge=1)
    """Heads of a layer, which share its width."""

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
    """Recurrent layers."""


class HstuConfig(_AttentionSettings):
    """HSTU (Zhai et al. 2024)."""

    kind: Literal["hstu"]


class Bert4recConfig(_AttentionSettings):
    """BERT4Rec (Sun et al. 2019)."""

    kind: Literal["bert4rec"]
    mask_probability: float = Field(default=0.2, gt=0, lt=1)
    """Chance of an item to be hidden in training."""


class HgnConfig(SequentialSettings):
    """HGN (Ma et al. 2019)."""

    kind: Literal["hgn"]
    window: int = Field(default=5, ge=1)
    """Latest items that the gates see."""


class RearecConfig(_AttentionSettings):
    """ReaRec (Tang et al. 2025)."""

    kind: Literal["rearec"]
    objective: Literal["erl", "prl"] = "prl"
    """Ensemble or progressive reasoning learning."""
    steps: int = Field(default=2, ge=1)
    """Latent steps."""
    temperature: float = Field(default=0.07, gt=0)
    """Scores are divided by it before the softmax."""
    kl_weight: float = Field(default=0.05, ge=0)
    """erl: weight of the divergence between the steps' softmaxes."""
    temperature_factor: float = Field(default=5.0, ge=1)
    """prl: factor of the temperature from a step to the one before it."""
    contrastive_weight: float = Field(default=1.0, ge=0)
    """prl: weight of the contrast between clean and noised steps."""
    noise_std: float = Field(default=0.01, ge=0)
    """prl: deviation of the noise."""

    @model_validator(mode="after")
    def _a_softmax(self) -> Self:
        if self.loss == "bce":
            raise ValueError(f"{self.name}: ReaRec's objectives need a softmax: set loss to full or sampled")
        return self


class TigerConfig(BaselineSettings):
    """TIGER (Rajput et al. 2023)."""

    kind: Literal["tiger"]
    history_length: int = Field(default=20, ge=1)
    """Most recent items of a history that the model sees."""
    encoder: Literal["bidirectional", "causal"] = Field(default="bidirectional", json_schema_extra=LATER)
    """`causal`: no item sees a later one, so that one encoding of a history trains all its targets."""
    width: int = Field(default=128, ge=2)
    """Width of code embeddings and hidden states."""
    layers: int = Field(default=4, ge=1)
    """Of the encoder, and of the decoder."""
    heads: int = Field(default=6, ge=1)
    """Heads of an attention layer."""
    head_width: int = Field(default=64, ge=1)
    """Width of each."""
    feed_forward: int = Field(default=1024, ge=1)
    """Width of the feed-forward layers."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on embeddings, attention and within layers."""
    beams: int = Field(default=20, ge=1)
    """Prefixes kept at each level when decoding."""


Baseline = Annotated[
    SasrecConfig | Gru4recConfig | Bert4recConfig | HgnConfig | HstuConfig | RearecConfig | TigerConfig,
    Field(discriminator="kind"),
]


class BaselineJob(Settings):
    """What training a baseline depends on: its settings, and how it is validated."""

    settings: Baseline
    seen: Literal["keep", "drop"] = "drop"

    def idle(self) -> Iterable[str]:
        """See Settings.idle: a refit is not validated."""
        return ("seen",) if self.settings.final_fit != "train" else ()
