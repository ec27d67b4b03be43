"""Settings of the training stages: what each needs and gives, the form of its prompts, and what it depends on besides.

A new kind of stage is a class here, joined to `Stage`, a file in pauserec/stages/ and a line of its STAGES. Nothing else
asks what kind a stage is.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from pauserec.config.settings import (
    BOOKKEEPING,
    LATER,
    DecodingConfig,
    EntryWords,
    PromptConfig,
    Settings,
)
from pauserec.config.training import Epochs, Format, Gives, Keep, LanguageTraining, LoraSettings, ValidatedSettings

if TYPE_CHECKING:
    from pauserec.config.recipe import Recipe


class _OverCorpus(LanguageTraining):
    """What both stages over running text can set: some rows of the tables train, the backbone does not."""

    corpus: Literal["histories", "items"] = "histories"
    """Training histories as running text, or each item alone in both directions."""

    def running_text(self, recipe: "Recipe") -> dict[str, Any]:
        """What of the recipe's prompts shapes the text: items of a stretch (None where each stands alone), and words."""
        length = recipe.prompt.history_length if self.corpus == "histories" else None
        words = recipe.prompt.entry.model_copy(
            update={"id_separator": EntryWords().id_separator}
        )  # no ID is alone there
        return {"history_length": length, "words": words}

    @property
    def rows_only(self) -> bool:
        """See LanguageTraining.rows_only."""
        return True


class CptConfig(_OverCorpus):
    """Continual pretraining: ground the SID rows in item text (paper, eq. 2)."""

    kind: Literal["cpt"]
    starts_from: tuple[str] = ("base",)
    """Step whose checkpoint it goes on from."""
    epochs: Epochs = 3
    learning_rate: float = Field(default=1e-4, gt=0)

    def job(self, recipe: "Recipe") -> "CorpusJob":
        """See LanguageTraining.job."""
        return CorpusJob(stage=self, precision=recipe.model.precision, keep=recipe.keep, **self.running_text(recipe))


class PausePretrainConfig(_OverCorpus):
    """Pause pretraining: the CPT corpus with pauses strewn in; only the pause row trains (paper, Section 5.3)."""

    gives: ClassVar[Gives] = "row"
    kind: Literal["pause_pretrain"]
    starts_from: tuple[str] = ("cpt",)
    """Step whose checkpoint it goes on from."""
    epochs: Epochs = 2
    learning_rate: float = Field(default=1e-3, gt=0)
    pretrained: bool = Field(default=True, json_schema_extra=LATER)
    """Train the row; false leaves it as `init` has it (Table 7's rows that are not pretrained)."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Pauses inserted, as a share of the text's words; an ID is a word."""
    init: Literal["mean", "text_mean", "sid_mean", "default"] = "mean"
    """Start of the pause row: the mean of all rows, of text rows, of SID rows, or as the grown table has it."""
    init_noise: float = Field(default=1e-9, ge=0)
    """Variance of the noise added to the start, as a multiple of the embeddings' variance."""
    loss_on_pauses: bool = Field(default=False, json_schema_extra=LATER)
    """Loss also where the next token is a pause, as a plain language model's collator has it."""

    def idle(self) -> Iterable[str]:
        """See Settings.idle: without training only the row's start counts."""
        counts = {"kind", "name", "starts_from", "pretrained", "init", "init_noise", "seed", "corpus"}
        return () if self.pretrained else sorted(set(type(self).model_fields) - counts)

    def job(self, recipe: "Recipe") -> "PauseJob":
        """See LanguageTraining.job."""
        return PauseJob(stage=self, precision=recipe.model.precision, **self.running_text(recipe))


class _NextItem(ValidatedSettings, LanguageTraining):
    """What both next-item stages can set."""

    targets: Literal["last", "all"] = "last"
    """One training target per user, or every item from the second on."""
    loss_on: Literal["target", "history"] = "target"
    """Loss on the assistant's SID only, or on the user turn's SIDs too."""
    targets_per_history: int | None = Field(default=None, ge=1)
    """With targets = "all": at most this many targets of a window, drawn anew each epoch (with loss_on = "history" always
    with the newest); null takes all."""
    window_overlap: float = Field(default=0.5, ge=0, lt=1)
    """With targets = "all": a longer history is cut into windows that share this part of their items."""
    softmax: Literal["full", "codebook"] = "full"
    """Normalise the loss over the whole vocabulary, or over the codes of the target's level."""
    negatives: int | None = Field(default=None, ge=1, json_schema_extra=LATER)
    """With softmax = "codebook": a level with more codes than this is stood for by so many drawn ones; null takes all."""
    text_rows: Literal["train", "freeze"] = "train"
    """Full fine-tuning, or all but the rows of ordinary text tokens in the tables (much less to update in a small model)."""
    lora: LoraSettings | None = None
    """Instead of full fine-tuning: train adapters of the backbone and the rows of SID tokens and `<pause>`."""
    loss_on_end: bool = False
    """Loss also on begin/end tokens and the end of the turn (they are forced in decoding)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input embeddings."""
    layer_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on what each layer's attention and feed-forward part add, for small data and many epochs."""
    history_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Leave each item out of a training history with this probability, drawn anew each epoch (its first item stays)."""

    def job(self, recipe: "Recipe") -> "NextItemJob":
        """See LanguageTraining.job."""
        return NextItemJob(
            stage=self,
            prompt=recipe.prompt,
            decoding=recipe.decoding,
            precision=recipe.model.precision,
            seen=recipe.evaluation.seen,
            keep=recipe.keep,
        )

    @property
    def rows_only(self) -> bool:
        """See LanguageTraining.rows_only: adapters leave the backbone's own weights alone."""
        return self.lora is not None

    @property
    def code_softmax(self) -> Literal["full", "codebook"] | None:
        """See LanguageTraining.code_softmax."""
        return self.softmax

    @model_validator(mode="after")
    def _ends_have_a_level(self) -> Self:
        if self.loss_on_end and self.softmax == "codebook":
            raise ValueError('loss_on_end needs softmax = "full": begin and end tokens are codes of no level')
        return self


class SftConfig(_NextItem):
    """Next-item fine-tuning on SIDs alone, with an empty think block (paper, eq. 3)."""

    kind: Literal["sft"]
    starts_from: tuple[str] = ("cpt",)
    """Step whose checkpoint it goes on from."""
    epochs: Epochs = 6
    learning_rate: float = Field(default=1e-5, gt=0)


class ImplicitSftConfig(_NextItem):
    """Implicit-reasoning fine-tuning: k pauses in the think block, SID + text in the user's turn (paper, eqs. 5-6)."""

    needs: ClassVar[tuple[Gives, ...]] = ("model", "row")
    kind: Literal["implicit_sft"]
    starts_from: tuple[str, str] = ("sft", "pause_pretrain")
    """The checkpoint to go on from, then the one that gives the pause row."""
    epochs: Epochs = 5
    learning_rate: float = Field(default=5e-5, gt=0)
    pauses: int = Field(default=5, ge=0, le=64)
    """k, the number of pauses before the SID."""
    fields: tuple[Literal["title", "categories"], ...] = ("title", "categories")
    """Item text that follows each SID in the user's turn."""
    history_length: int | None = Field(default=None, ge=1)
    """Items a prompt of this stage holds; null takes prompt.history_length."""
    distill: float = Field(default=0.0, ge=0, le=1, json_schema_extra=LATER)
    """Share of each target that is what the model it starts from predicts without pauses and text; the rest is the label."""

    @model_validator(mode="after")
    def _taught(self) -> Self:
        wanted = {
            "targets": "all",
            "loss_on": "target",
            "softmax": "codebook",
            "targets_per_history": None,
            "history_dropout": 0,
        }
        for name, value in wanted.items():
            if self.distill and getattr(self, name) != value:
                raise ValueError(f"distill needs {name} = {value!r}: the teacher sees every target of a history once")
        return self

    def form(self, prompt: PromptConfig) -> Format:
        """See LanguageTraining.form."""
        return Format(self.fields, self.pauses, self.history_length or prompt.history_length)


Stage = Annotated[CptConfig | SftConfig | PausePretrainConfig | ImplicitSftConfig, Field(discriminator="kind")]


class CorpusJob(Settings):
    """What continual pretraining depends on."""

    stage: CptConfig
    precision: Literal["auto", "float32", "bfloat16"]
    history_length: int | None
    """None where the text is items', each alone."""
    words: EntryWords = Field(default=EntryWords(), json_schema_extra=LATER)
    keep: Keep = Field(default="rows", json_schema_extra=LATER | BOOKKEEPING)
    spaces: Literal["before words"] = "before words"
    """Spaces of running text stand before words, as tokenizers expect. Version 0.1 had them elsewhere: its text is another."""


class PauseJob(CorpusJob):
    """What pause pretraining depends on."""

    stage: PausePretrainConfig  # type: ignore[assignment]


class NextItemJob(Settings):
    """What a next-item stage depends on: its own settings, the prompts, and how it is validated."""

    stage: SerializeAsAny[_NextItem]
    prompt: PromptConfig
    decoding: DecodingConfig = DecodingConfig()
    precision: Literal["auto", "float32", "bfloat16"]
    seen: Literal["keep", "drop"] = "drop"
    keep: Keep = Field(default="rows", json_schema_extra=LATER | BOOKKEEPING)

    def idle(self) -> Iterable[str]:
        """See Settings.idle: a refit is not validated."""
        return ("decoding", "seen") if self.stage.final_fit != "train" else ()

    def identity(self, *, first_rule: bool = False) -> dict[str, Any]:
        """See Settings.identity: prompts without text show none of it."""
        content = super().identity(first_rule=first_rule)
        return (
            content if first_rule else content | {"prompt": prompt_identity(self.prompt, self.stage.form(self.prompt))}
        )


def prompt_identity(prompt: PromptConfig, form: Format) -> dict[str, Any]:
    """What of a prompt's settings changes prompts of this form: without text, the length and the words of text do not."""
    entry, plain = prompt.entry, EntryWords()
    if form.fields:
        return prompt.model_copy(
            update={"entry": entry.model_copy(update={"link": plain.link, "id_separator": plain.id_separator})}
        ).identity()
    bare = EntryWords(id_separator=entry.id_separator)
    return prompt.model_copy(update={"entry": bare, "text_tokens": PromptConfig().text_tokens}).identity()
