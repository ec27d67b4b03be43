"""Settings of everything but the stages. Frozen, bounded, unknown keys refused."""

from collections.abc import Iterable
from math import prod
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import to_jsonable_python


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversion from text to numbers."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        defer_build=True,  # a validator is made when it is first needed: importing all settings costs a third of a second less
    )

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, content: Any) -> Any:
        for name, value in content.items() if isinstance(content, dict) else ():
            kind = cls.model_fields[name].annotation if name in cls.model_fields else None
            kinds = {kind, *get_args(kind)}
            words = [word for each in kinds if get_origin(each) is Literal for word in get_args(each)]
            if isinstance(value, str | bool) and not {int, float}.isdisjoint(kinds) and value not in words:
                raise ValueError(f"{name} is a number, not {value!r}")
        return content

    def idle(self) -> Iterable[str]:
        """Names of settings that change nothing beside the others as they are: they count as their defaults."""
        return ()

    def identity(self, *, first_rule: bool = False) -> dict[str, Any]:
        """The settings that enter a step's fingerprint: those that can change what the step gives.

        A LATER one is left out while it has its default; one of BOOKKEEPING, or one that is `idle`, counts as its default
        (or as what it is `entered_as`) whatever it is. first_rule: as version 0.1 counted, so that its finished steps are
        known again; a default that came later (`counts_as`) then enters as the one it had.
        """
        content = self.model_dump(mode="json")
        idle = set() if first_rule else set(self.idle())
        for name, field in type(self).model_fields.items():
            value, extra = getattr(self, name), field.json_schema_extra
            marks = extra if isinstance(extra, dict) else {}
            uncounted = name in idle or (
                marks.get("bookkeeping") and not (first_rule and marks.get("counted_at_first"))
            )
            if marks.get("later") and (uncounted or value in (field.default, marks.get("entered_as", field.default))):
                del content[name]
            elif uncounted:
                default = marks.get("entered_as", to_jsonable_python(field.default))
                content[name] = marks.get("counts_as", default) if first_rule else default
            elif first_rule and "counts_as" in marks and value == field.default:
                content[name] = marks["counts_as"]
            elif isinstance(value, Settings):
                content[name] = value.identity(first_rule=first_rule)
            elif isinstance(value, tuple):
                content[name] = [
                    part.identity(first_rule=first_rule) if isinstance(part, Settings) else plain
                    for part, plain in zip(value, content[name], strict=True)
                ]
        return content


NAME = r"^[A-Za-z0-9][A-Za-z0-9._\-]*$"
"""What may become the name of a folder."""
LATER: JsonDict = {"later": True}
"""Marks (`json_schema_extra`) a setting that came after runs were made: at its default it leaves their fingerprints as they
were, so that an upgrade repeats no finished step. Such a default must never change."""
BOOKKEEPING: JsonDict = {"bookkeeping": True}
"""Marks a setting that changes no result: what is done stays done, and what is under way goes on, whatever it is set to."""
HARDWARE: JsonDict = {"bookkeeping": True, "counted_at_first": True}
"""Marks a setting of how the hardware is used, which is BOOKKEEPING too; version 0.1 counted it."""


def counts_as(value: Any) -> JsonDict:
    """Marks a setting whose default came later, and gives the default of version 0.1, so that its steps are known again."""
    return {"counts_as": value}


def entered_as(value: Any) -> JsonDict:
    """Marks a setting whose default changed without changing a result, and gives the one that fingerprints know."""
    return {"entered_as": value}


Seed = Annotated[int, Field(ge=0, lt=2**31 - 16)]
"""What NumPy, torch and faiss all take; k-means adds the level to it."""


class EmbedderConfig(Settings):
    """What an item's vector is made of before it is quantized."""

    name: str = "all-minilm-l6-v2"
    """Sentence embedder: a known name, a local folder or a hub id, OWNER/NAME or OWNER/NAME@REVISION."""
    text: Literal["title", "title+categories"] = "title+categories"
    """Item text given to the embedder."""
    batch_size: int = Field(default=64, ge=1, json_schema_extra=BOOKKEEPING)
    """Texts per call of the embedder."""
    cooccurrence_dims: int = Field(default=0, ge=0)
    """Width of an SVD of the training part's co-occurrence (PPMI), joined to the text vector; 0 leaves it out."""
    cooccurrence_weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the co-occurrence part in the squared length of the joined vector."""
    cooccurrence_window: int = Field(default=5, ge=1)
    """Two events of one user count as co-occurring when at most this many positions apart."""
    baseline: str | None = None
    """Name of a trained baseline of the recipe whose item vectors are joined too; null joins none."""
    baseline_weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the baseline's part in the squared length of the joined vector."""
    seed: Seed = 0
    """Seed of the SVD."""

    def idle(self) -> Iterable[str]:
        """See Settings.idle."""
        if not self.cooccurrence_dims:
            yield from ("cooccurrence_weight", "cooccurrence_window", "seed")
        if self.baseline is None:
            yield "baseline_weight"


class QuantizerConfig(Settings):
    """Vectors to semantic IDs."""

    kind: Literal["rqkmeans", "rqvae"] = "rqkmeans"
    """Residual k-means (faiss) or a residual-quantized variational autoencoder."""
    codebook_sizes: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (256, 256, 256, 256)
    """Codes per level, coarse to fine."""
    collisions: Literal["reassign", "digit"] = "reassign"
    """Items that share an ID: move all but one to the nearest free code, or add one more level that counts them."""
    iterations: int = Field(default=25, ge=1)
    """k-means iterations per level (rqkmeans)."""
    epochs: int = Field(default=200, ge=1)
    """Training epochs (rqvae)."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate (rqvae)."""
    batch_size: int = Field(default=1024, ge=1)
    """Items per step (rqvae)."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (512, 256)
    """Widths of the encoder's hidden layers (rqvae); the decoder mirrors them."""
    latent: int = Field(default=64, ge=1)
    """Width of the quantized vector (rqvae)."""
    commitment: float = Field(default=0.25, ge=0)
    """Weight of the commitment loss (rqvae)."""
    seed: Seed = 0
    """Seed of the codebooks' start, and of training (rqvae)."""

    def idle(self) -> Iterable[str]:
        """See Settings.idle."""
        if self.kind == "rqkmeans":
            yield from ("epochs", "learning_rate", "batch_size", "hidden", "latent", "commitment")

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if not 1 <= len(self.codebook_sizes) <= 8:
            raise ValueError("codebook_sizes needs 1 to 8 levels")
        if prod(self.codebook_sizes) >= 2**63:
            raise ValueError("codebook_sizes make IDs of more than 63 bits: use fewer levels or smaller codebooks")
        return self


class ModelConfig(Settings):
    """The language model."""

    name: str = "Qwen/Qwen3-1.7B"
    """A known name (`pauserec assets list`), a local folder or a hub id, OWNER/NAME or OWNER/NAME@REVISION. A family
    that tree passes do not suit is refused by the step `base`."""
    layers: int | None = Field(default=None, ge=1)
    """Keep only the first N layers; null keeps all."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic for training and decoding; `auto` is bfloat16 where that is faster. Weights train in float32."""
    new_rows: Literal["noise", "centroids", "mean"] = Field(default="noise", json_schema_extra=LATER)
    """Where the SID tokens' rows start, about the table's mean: noise of its deviation, the quantizer's centroids turned into
    its width, or next to no noise (transformers' own default)."""
    seed: Seed = 0
    """Seed of the new rows' start values."""


Words = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
"""Words around a value, which stands where the braces are."""


class EntryWords(Settings):
    """How an item's text follows its ID, in prompts and in running text; the order is that of a stage's `fields`."""

    title: Words = ' "{}"'
    """The title."""
    categories: Words = " ({})"
    """The categories, joined."""
    category_joint: str = ", "
    """Between two categories."""
    separator: str = "\n"
    """After an entry with text."""
    id_separator: str = ""
    """After an ID alone."""
    link: str = " is"
    """In running text, between an ID and the text that follows it."""


class PromptConfig(Settings):
    """The words around the IDs."""

    template: Literal["chat", "ids"] = Field(default="chat", json_schema_extra=LATER)
    """A chat around the history; or nothing: its IDs (and items' text, where a stage has `fields`), then the target's."""
    system: str = (
        "You recommend products. From the list of what a person chose before, oldest first, "
        "name the product this person will choose next."
    )
    """System instruction of every chat."""
    history: str = "Chosen so far:"
    """Opens the user's turn."""
    history_length: int = Field(default=20, ge=1)
    """Most recent items of a history that a prompt holds."""
    history_step: int = Field(default=1, ge=1)
    """The window over a long history moves in blocks of this many items, so that a user's cached prompt stays valid."""
    text_tokens: int = Field(default=48, ge=1)
    """An item's text is cut to this many tokens inside prompts."""
    entry: EntryWords = Field(default=EntryWords(), json_schema_extra=LATER)
    """How an item's text follows its ID."""
    brackets: Literal["all", "target"] = "all"
    """Begin/end tokens around every ID, or around the target only (shorter prompts)."""

    @model_validator(mode="after")
    def _has_words(self) -> Self:
        fields = type(self).model_fields
        for name in ("system", "history", "brackets"):
            if self.template == "ids" and getattr(self, name) != fields[name].default:
                raise ValueError(f'{name} is not used with template = "ids", which has no chat: remove it')
        return self


class DecodingConfig(Settings):
    """Constrained beam search."""

    beams: int = Field(default=20, ge=1)
    """Prefixes kept at each level; at least evaluation.top_k."""
    normalise: Literal["full", "codebook", "legal"] = "full"
    """Log-softmax over the whole vocabulary (as Hugging Face does), the level's codes, or the legal codes."""
    batch_tokens: int | None = Field(
        default=None, ge=64, json_schema_extra=BOOKKEEPING | counts_as(8192) | entered_as(8192)
    )
    """Prompt tokens decoded together, or the beams' tokens where those are more: memory follows from it. null: 65,536 on a
    GPU, else 8,192."""
