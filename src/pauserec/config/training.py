"""What everything that trains can set: the loop, validation, language models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator

from pauserec.config.settings import (
    BOOKKEEPING,
    HARDWARE,
    LATER,
    PromptConfig,
    Seed,
    Settings,
    counts_as,
    entered_as,
)
from pauserec.errors import RecipeError

if TYPE_CHECKING:
    from pauserec.config.recipe import Recipe

Keep = Literal["rows", "all"]
"""What a run folder keeps of its models: once, what the rows of its table need; or every stage's whole model."""
Gives = Literal["model", "row", "rationales"]
"""What a stage leaves: a whole model, the row of one token, or texts."""


@dataclass(frozen=True)
class Format:
    """What varies between prompts: text fields after each SID, number of pauses, items in the history.

    rationale: most tokens that the model writes before it names an item; the prompt then ends inside the think block.
    """

    fields: tuple[str, ...] = ()
    pauses: int = 0
    history_length: int = 20
    rationale: int = 0


class LoraSettings(Settings):
    """Low-rank adapters on the backbone's linear layers (Hu et al. 2021), merged into them when the stage is saved."""

    rank: int = Field(default=16, ge=1)
    """Width of an adapter."""
    alpha: float = Field(default=32.0, gt=0)
    """An adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""


Epochs = Annotated[float, Field(gt=0, le=10_000)]


def _batch_tokens(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and value >= 64):
        return value
    raise ValueError('give a whole number of at least 64, or "auto"')


class TrainingSettings(Settings):
    """What every stage can set."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_\-]*$", max_length=100)
    """Name of the stage: its folder, and what other stages refer to."""
    epochs: Epochs
    """Passes over the data; a fraction stops within one."""
    learning_rate: float = Field(gt=0)
    """The highest of the schedule."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's."""
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    """What the learning rate does after its rise."""
    batch_tokens: Annotated[int | Literal["auto"], PlainValidator(_batch_tokens)] = 4096
    """Tokens in one packed batch; "auto" is as many as the GPU holds, with the learning rate meant for 4,096 and scaled."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this length."""
    gradient_checkpointing: bool = Field(default=False, json_schema_extra=HARDWARE)
    """Keep one state a layer and compute the rest again going backward: a third more time, a fraction of the memory."""
    compile: bool | None = Field(default=None, json_schema_extra=HARDWARE | counts_as(False) | entered_as(False))
    """Compile the layers with torch.compile (needs a C++ compiler on a CPU); null compiles on a GPU only."""
    sharding: Literal["none", "fsdp2"] = Field(default="none", json_schema_extra=HARDWARE)
    """Of several processes: each holds all weights (DDP), or a part of them (FSDP2, for models that fill a GPU)."""
    save_every: int | None = Field(default=None, ge=1, json_schema_extra=BOOKKEEPING | counts_as(200) | entered_as(200))
    """Optimizer steps between checkpoints; null saves by `save_minutes` alone."""
    save_minutes: float = Field(default=10.0, gt=0, json_schema_extra=LATER | BOOKKEEPING)
    """Minutes between checkpoints."""
    log_every: int | None = Field(default=None, ge=1, json_schema_extra=LATER | BOOKKEEPING)
    """Optimizer steps after which losses are read and written to the log, every one of them; null: 10 on a GPU, else 1."""
    tracking: tuple[str, ...] = Field(default=(), json_schema_extra=BOOKKEEPING | counts_as(["tensorboard"]))
    """Trackers, by accelerate's names ("tensorboard" needs `pip install 'pauserec[tensorboard]'`)."""
    minutes: float | None = Field(default=None, gt=0, json_schema_extra=LATER | BOOKKEEPING)
    """Training and validating take at most this long: where the epochs would take longer, the schedule is shortened."""
    stop_when_broken: bool = Field(default=True, json_schema_extra=LATER | BOOKKEEPING)
    """Stop with an error where the loss on codes is above that of guessing after the warm-up."""
    seed: Seed = 0
    """Seed of the batches' order, of dropout and of whatever else is drawn."""

    @property
    def batch_size(self) -> int:
        """Tokens in one packed batch. Raises RecipeError where nobody has said yet what fits this machine."""
        if self.batch_tokens == "auto":
            raise RecipeError(f"stages.{self.name}.batch_tokens is auto: this needs a figure, such as 4096")
        return self.batch_tokens


class LanguageTraining(TrainingSettings):
    """What the stages of a language model can set besides."""

    gives: ClassVar[Gives] = "model"
    needs: ClassVar[tuple[Gives, ...]] = ("model",)
    """What each step of `starts_from` must give."""
    starts_from: tuple[str, ...]
    """Steps whose results it goes on from."""
    attention: Literal["documents", "flex"] | None = Field(
        default=None, json_schema_extra=LATER | HARDWARE | entered_as("documents")
    )
    """Attention of a packed batch: groups of similar documents in turn, or all at once by FlexAttention (a GPU only); null
    takes the latter on a GPU."""

    def form(self, prompt: PromptConfig) -> Format:
        """The form of the prompts that its model is asked with: SIDs alone, unless the stage trains another."""
        return Format(history_length=prompt.history_length)

    def job(self, recipe: "Recipe") -> Settings:
        """The stage with just those settings of the recipe that it depends on: what its function is given."""
        raise NotImplementedError

    @property
    def rows_only(self) -> bool:
        """Whether the backbone stays as it is, so that no gradient of its weights is made."""
        return False

    @property
    def code_softmax(self) -> Literal["full", "codebook"] | None:
        """What its loss on codes is normalised over; None where its loss is on text."""
        return None


class ValidatedSettings(TrainingSettings):
    """What stages and baselines can set that are validated while they train."""

    final_fit: Literal["train", "train+validation"] = "train"
    """Train on events up to the training target, or (a refit once settings are chosen) up to the validation target."""
    validate_every: int = Field(default=0, ge=0)
    """Optimizer steps between constrained validations; 0 validates at each epoch's end."""
    validate_start: bool = Field(default=False, json_schema_extra=LATER)
    """Validate before the first step too, so that a training that only makes it worse leaves what it began with."""
    validation_users: int | None = Field(default=512, ge=1)
    """Users drawn for validation during training; null takes all."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without a better NDCG@10; null never stops early."""
    epochs_from: str | None = Field(default=None, json_schema_extra=LATER)
    """Of a refit: a strict stage or baseline of the recipe, whose epochs up to its best validation are taken for `epochs`."""

    def idle(self) -> Iterable[str]:
        """See Settings.idle: a refit is not validated."""
        return ("validate_every", "validate_start", "validation_users", "patience") if self.final_fit != "train" else ()
