"""Every setting of a recipe. Frozen, bounded, unknown keys refused. Imports no torch."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pauserec.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversion from text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class Columns(Settings):
    """Names of the columns of the interactions file."""

    user: str = "user_id"
    """Column with the user id (text)."""
    item: str = "item_id"
    """Column with the item id (text)."""
    timestamp: str | None = "timestamp"
    """Column with seconds, milliseconds or ISO 8601; null if there is none."""
    order: str | None = "order"
    """Column with the event's position in its user's history; used before the timestamp where the file has it."""


class ItemColumns(Settings):
    """Names of the columns of the items file. Of several names, the first that is not empty in a row counts."""

    item: str = "item_id"
    """Column with the item id (text)."""
    title: tuple[str, ...] = ("title_clean", "title", "pseudo_title")
    """Columns with the title."""
    categories: tuple[str, ...] = ("category_path", "categories")
    """Columns with categories: a list, a list of paths (the first counts), or text parted by `category_separator`."""


class DataConfig(Settings):
    """Raw logs and how they become histories."""

    source: str = "ml-100k"
    """A known data set (`pauserec assets list`) or a folder with `interactions.*` and `items.*`."""
    interactions: str | None = None
    """Path of the interactions file, instead of `source`."""
    items: str | None = None
    """Path of the items file, beside `interactions`. Without one, items have no text."""
    format: Literal["auto", "table", "recbole", "amazon2014", "amazon2023"] = "auto"
    """Layout of the files; `auto` goes by file name and columns."""
    columns: Columns = Columns()
    item_columns: ItemColumns = ItemColumns()
    delimiter: str | None = None
    """Column delimiter of text tables; null finds it from the header."""
    category_separator: str = " > "
    """Parts a category path that is given as text."""
    min_interactions: int = Field(default=5, ge=1)
    """k of k-core filtering: items and users with fewer events are dropped, repeatedly."""
    ties: Literal["hash", "file"] = "hash"
    """Order of events with equal time: by a fixed hash of user and item, or as in the file."""
    repeats: Literal["first", "keep"] = "first"
    """Of several events of one user with one item, keep the first or all."""
    max_title_chars: int = Field(default=512, ge=8)
    """Longer titles are cut."""


class EmbedderConfig(Settings):
    """What an item's vector is made of before it is quantized."""

    name: str = "all-minilm-l6-v2"
    """Sentence embedder: a known name, a local folder or a hub id."""
    text: Literal["title", "title+categories"] = "title+categories"
    """Item text given to the embedder."""
    batch_size: int = Field(default=64, ge=1)
    cooccurrence_dims: int = Field(default=0, ge=0)
    """Width of an SVD of the training part's co-occurrence (PPMI), joined to the text vector; 0 leaves it out."""
    cooccurrence_weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the co-occurrence part in the squared length of the joined vector."""
    cooccurrence_window: int = Field(default=5, ge=1)
    """Two events of one user count as co-occurring when at most this many positions apart."""
    seed: int = 0


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
    hidden: tuple[int, ...] = (512, 256)
    """Widths of the encoder's hidden layers (rqvae); the decoder mirrors them."""
    latent: int = Field(default=64, ge=1)
    """Width of the quantized vector (rqvae)."""
    commitment: float = Field(default=0.25, ge=0)
    """Weight of the commitment loss (rqvae)."""
    seed: int = 0

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if not 1 <= len(self.codebook_sizes) <= 8:
            raise ValueError("codebook_sizes needs 1 to 8 levels")
        return self


class ModelConfig(Settings):
    """The language model."""

    name: str = "Qwen/Qwen3-1.7B"
    """A known name (`pauserec assets list`), a local folder or a hub id."""
    layers: int | None = Field(default=None, ge=1)
    """Keep only the first N layers; null keeps all."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic for training and decoding; `auto` is bfloat16 where the machine has it. Weights train in float32."""
    seed: int = 0
    """Seed of the new rows' start values."""


class PromptConfig(Settings):
    """The words around the IDs."""

    system: str = (
        "You recommend products. From the list of what a person chose before, oldest first, "
        "name the product this person will choose next."
    )
    """System instruction of every chat."""
    history: str = "Chosen so far:"
    """Opens the user's turn."""
    history_length: int = Field(default=20, ge=1)
    """Most recent items of a history that a prompt holds."""
    text_tokens: int = Field(default=48, ge=1)
    """An item's text is cut to this many tokens inside prompts."""
    brackets: Literal["all", "target"] = "all"
    """Begin/end tokens around every ID, or around the target only (shorter prompts)."""


class _Training(Settings):
    """What every stage can set."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_\-]*$")
    """Name of the stage: its folder, and what other stages refer to."""
    epochs: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    batch_tokens: int = Field(default=4096, ge=64)
    """Tokens in one packed batch."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    save_every: int = Field(default=200, ge=1)
    """Optimizer steps between checkpoints."""
    tracking: tuple[str, ...] = ("tensorboard",)
    """Trackers, as transformers' report_to names them."""
    seed: int = 0


class CptConfig(_Training):
    """Continual pretraining: ground the SID rows in item text (paper, eq. 2)."""

    kind: Literal["cpt"]
    starts_from: tuple[str] = ("base",)
    epochs: float = Field(default=3, gt=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    corpus: Literal["histories", "items"] = "histories"
    """Training histories as running text, or each item alone in both directions."""


class PausePretrainConfig(_Training):
    """Pause pretraining: the CPT corpus with pauses strewn in; only the pause row trains (paper, Section 5.3)."""

    kind: Literal["pause_pretrain"]
    starts_from: tuple[str] = ("cpt",)
    epochs: float = Field(default=2, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    corpus: Literal["histories", "items"] = "histories"
    share: float = Field(default=0.1, gt=0, lt=1)
    """Pauses inserted, as a share of the sequence's tokens."""
    init: Literal["mean", "text_mean", "sid_mean", "default"] = "mean"
    """Start of the pause row: the mean of all rows, of text rows, of SID rows, or as the grown table has it."""
    init_noise: float = Field(default=1e-9, ge=0)
    """Variance of the noise added to the start, as a multiple of the embeddings' variance."""


class _NextItem(_Training):
    """What both next-item stages can set."""

    targets: Literal["last", "all"] = "last"
    """One training target per user, or every item from the second on."""
    loss_on: Literal["target", "history"] = "target"
    """Loss on the assistant's SID only, or on the user turn's SIDs too."""
    targets_per_history: int | None = Field(default=None, ge=1)
    """With targets = "all": train on at most this many targets of a window, drawn anew each epoch; null takes all."""
    window_overlap: float = Field(default=0.5, ge=0, lt=1)
    """With targets = "all": a longer history is cut into windows that share this part of their items."""
    softmax: Literal["full", "codebook"] = "full"
    """Normalise the loss over the whole vocabulary, or over the codes of the target's level."""
    text_rows: Literal["train", "freeze"] = "train"
    """Full fine-tuning, or all but the rows of ordinary text tokens in the tables (much less to update in a small model)."""
    loss_on_end: bool = False
    """Loss also on begin/end tokens and the end of the turn (they are forced in decoding)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input embeddings."""
    final_fit: Literal["train", "train+validation"] = "train"
    """Train on events up to the training target, or (a refit once settings are chosen) up to the validation target."""
    validate_every: int = Field(default=0, ge=0)
    """Optimizer steps between constrained validations; 0 validates at each epoch's end."""
    validation_users: int | None = Field(default=512, ge=1)
    """Users drawn for validation during training; null takes all."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without a better NDCG@10; null never stops early."""


class SftConfig(_NextItem):
    """Next-item fine-tuning on SIDs alone, with an empty think block (paper, eq. 3)."""

    kind: Literal["sft"]
    starts_from: tuple[str] = ("cpt",)
    epochs: float = Field(default=6, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)


class ImplicitSftConfig(_NextItem):
    """Implicit-reasoning fine-tuning: k pauses in the think block, SID + text in the user's turn (paper, eqs. 5-6)."""

    kind: Literal["implicit_sft"]
    starts_from: tuple[str, str] = ("sft", "pause_pretrain")
    """The checkpoint to go on from, then the one that gives the pause row."""
    epochs: float = Field(default=5, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)
    pauses: int = Field(default=5, ge=0, le=64)
    """k, the number of pauses before the SID."""
    fields: tuple[Literal["title", "categories"], ...] = ("title", "categories")
    """Item text that follows each SID in the user's turn."""
    history_length: int | None = Field(default=None, ge=1)
    """Items a prompt of this stage holds; null takes prompt.history_length."""


Stage = Annotated[CptConfig | SftConfig | PausePretrainConfig | ImplicitSftConfig, Field(discriminator="kind")]


class DecodingConfig(Settings):
    """Constrained beam search."""

    beams: int = Field(default=20, ge=1)
    normalise: Literal["full", "codebook", "legal"] = "full"
    """Log-softmax over the whole vocabulary (as Hugging Face does), the level's codes, or the legal codes."""
    batch_tokens: int = Field(default=8192, ge=64)
    """Prompt tokens decoded together."""


class EvaluatedModel(Settings):
    """One row of the table that comes from a checkpoint."""

    name: str
    stage: str
    """Stage whose checkpoint is tested."""
    pauses: int | None = Field(default=None, ge=0, le=64)
    """Pauses in the prompt, instead of the number it was trained with."""


class EvaluationConfig(Settings):
    """Full ranking over the catalogue, item level."""

    models: tuple[EvaluatedModel, ...] = ()
    baselines: tuple[Literal["popularity", "co-occurrence"], ...] = ("popularity", "co-occurrence")
    seen: Literal["keep", "drop"] = "drop"
    """Whether items of the user's own history may be ranked."""
    top_k: int = Field(default=20, ge=10)
    """Items ranked per user; a target below is a miss."""
    bootstrap: int = Field(default=1000, ge=1)
    """Resamples of users behind each 95% confidence interval."""


class Recipe(Settings):
    """A whole run, top to bottom."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*$")
    """Name of the recipe, and of the run folder unless --out is given."""
    data: DataConfig = DataConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    stages: tuple[Stage, ...] = ()
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _references(self) -> Self:
        known = {"base"}
        for stage in self.stages:
            for start in stage.starts_from:
                if start not in known:
                    raise ValueError(f"stage {stage.name!r} starts from {start!r}; known before it: {sorted(known)}")
            if stage.name in known:
                raise ValueError(f"two stages are named {stage.name!r}")
            known.add(stage.name)
        for model in self.evaluation.models:
            if model.stage not in known:
                raise ValueError(
                    f"evaluation.models {model.name!r} names stage {model.stage!r}; known: {sorted(known)}"
                )
        if self.decoding.beams < self.evaluation.top_k:
            raise ValueError(
                f"decoding.beams ({self.decoding.beams}) must be at least evaluation.top_k ({self.evaluation.top_k})"
            )
        return self

    @classmethod
    def load(cls, recipe: str | Path, overrides: tuple[str, ...] = ()) -> Self:
        """Read a recipe by shipped name or by path, then apply `KEY=VALUE` overrides (dotted keys, TOML values).

        A stage is addressed by its name: `stages.sft.epochs=2`. Raises RecipeError.
        """
        return cls.parse(_read(recipe), overrides)

    @classmethod
    def parse(cls, raw: dict[str, Any], overrides: tuple[str, ...] = ()) -> Self:
        """Check a recipe given as nested dicts. Raises RecipeError naming the key at fault."""
        for override in overrides:
            _apply(raw, override)
        try:
            return cls.model_validate(_replace(raw, "null", None))
        except ValidationError as error:
            raise RecipeError(_explain(error)) from None

    def dump(self) -> str:
        """The resolved recipe as TOML, every default written out; "null" stands for none."""
        return tomli_w.dumps(_replace(self.model_dump(mode="json"), None, "null"))


class CorpusJob(Settings):
    """What a stage over running text depends on."""

    stage: CptConfig | PausePretrainConfig
    precision: Literal["auto", "float32", "bfloat16"]
    history_length: int


class NextItemJob(Settings):
    """What a next-item stage depends on: its own settings, the prompts, and how it is validated."""

    stage: SftConfig | ImplicitSftConfig
    prompt: PromptConfig
    decoding: DecodingConfig
    precision: Literal["auto", "float32", "bfloat16"]
    seen: Literal["keep", "drop"]


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _read(recipe: str | Path) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix != ".toml":
        path = RECIPES / f"{recipe}.toml"
        if not path.exists():
            raise RecipeError(f"no recipe {recipe!r}: give a .toml file or one of {', '.join(shipped_recipes())}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe file {path}: check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None


def _replace(value: Any, old: Any, new: Any) -> Any:
    """`value` with `old` turned into `new` at every depth."""
    if isinstance(value, dict):
        return {key: _replace(entry, old, new) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace(entry, old, new) for entry in value]
    return new if value == old and type(value) is type(old) else value


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: write KEY=VALUE, for example --set model.layers=4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    node: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = next((entry for entry in node if entry.get("name") == part), None)
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {key}: there is no {'.'.join(parents[: depth + 1])} in this recipe")
    if not isinstance(node, dict):
        raise RecipeError(f"--set {key}: name the entry too, for example stages.sft.{last}=...")
    node[last] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown setting {where!r}: remove it or check its spelling"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"setting {where!r}: {message}{more}" if where else f"recipe: {message}{more}"
