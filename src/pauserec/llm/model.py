"""The backbone: load it, train all of it or a few rows only, save it as a plain Hugging Face folder."""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import orjson
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pauserec.config import LoraSettings, TrainingSettings
from pauserec.errors import ModelError, RecipeError
from pauserec.llm.layers.fused import FusedBackbone, can_fuse
from pauserec.llm.layers.packed import PackedLinear, can_pack, pack_linears
from pauserec.llm.tree.passes import Extension, Pass, tree_attention
from pauserec.llm.vocabulary import Vocabulary, find_vocabulary
from pauserec.llm.weights import halved_all, put_difference, save_difference, whole_checkpoint
from pauserec.runs.files import write_atomically
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.training.losses import Head

PAD_ROWS_TO = 64
ADDED_ROWS = "added_rows.json"
"""Beside each checkpoint: where the SID rows and `<pause>` stand."""


class RowBlock(nn.Module):
    """A contiguous block of embedding rows that trains while the rest of the (tied) table stays frozen.

    Gradients and optimizer state exist for these rows alone. rows: float32 [n, D], table rows first..first+n-1.
    An untied head has its own block, `head_rows`.
    """

    def __init__(self, table: Tensor, head: Tensor | None, rows: range) -> None:
        super().__init__()
        self.first, self.stop = rows.start, rows.stop
        self.rows = nn.Parameter(table[rows.start : rows.stop].detach().clone().float())
        self.head_rows = (
            nn.Parameter(head[rows.start : rows.stop].detach().clone().float()) if head is not None else None
        )


class LanguageModel(nn.Module):
    """A causal LM with a grown vocabulary, run in tree passes only.

    hf: the Hugging Face model. block: None while everything trains, else the rows that do.
    """

    def __init__(self, hf: Any, tokenizer: Any, vocabulary: Vocabulary) -> None:
        super().__init__()
        if getattr(hf.config, "final_logit_softcapping", None):
            raise ModelError("models with soft-capped logits (Gemma 2) are not supported: choose another backbone")
        hf.set_attn_implementation(tree_attention())
        hf.config.use_cache = False
        self.hf = hf
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.block: RowBlock | None = None
        self._adapters: list[Any] = []  # a list, for they hold `hf` and are no part of this module beside it
        self._fused: FusedBackbone | None = None
        self._packed_head: PackedLinear | None = None

    @classmethod
    def load(cls, path: Path, ids: SemanticIds) -> Self:
        """Load a checkpoint folder that `save` wrote, in float32."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        whole = whole_checkpoint(path)
        tokenizer = AutoTokenizer.from_pretrained(whole, local_files_only=True, trust_remote_code=False)
        hf = AutoModelForCausalLM.from_pretrained(
            whole, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        put_difference(path, hf.state_dict())
        return cls(hf, tokenizer, find_vocabulary(tokenizer, ids))

    def save(self, path: Path, start: Path | None = None, *, exact: bool = False) -> None:
        """Write weights (safetensors, 16 bit), configuration and tokenizer: a folder any Hugging Face tool can read.

        start: the checkpoint this one was trained from, beside `path`: only what differs from it is written. exact: keep
        32 bits.
        """
        self.merge_rows()
        weights = dict(self.hf.state_dict()) if exact else halved_all(self.hf.state_dict())
        if start is not None:
            save_difference(path, weights, start)
            return
        self.hf.set_attn_implementation("sdpa")
        self.hf.config.use_cache = True
        self.hf.save_pretrained(path, state_dict=weights)
        self.tokenizer.save_pretrained(path)
        rows = {"first_sid": self.vocabulary.first_sid, "pause": self.vocabulary.pause, "used": self.vocabulary.used}
        write_atomically(path / ADDED_ROWS, orjson.dumps(rows))
        self.hf.set_attn_implementation(tree_attention())
        self.hf.config.use_cache = False

    def in_precision(self, dtype: torch.dtype) -> Self:
        """Weights in this type. Buffers stay as they are: rounded rotary frequencies would turn distant positions wrongly."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def prepare_inference(self, *, compile: bool = False) -> Self:
        """Freeze the model and lay its weights out for this device: from here on it can only be run.

        compile: let torch.compile fuse what lies between the products (Llama, Qwen3): for a GPU, at a minute's start.
        """
        self.merge_rows()
        self.eval().requires_grad_(False)
        if can_fuse(self.hf.base_model):
            self._fused = FusedBackbone(self.hf.base_model, compile=compile)
        else:
            pack_linears(self.hf.base_model)
        if can_pack(self.head):
            self._packed_head = PackedLinear(self.head[: self.vocabulary.used])
            for parameter in self.hf.parameters():  # views of the file they came from: a copy lets go of its pages
                parameter.data = parameter.data.clone()
        return self

    @property
    def table(self) -> Tensor:
        """The input embedding table, [rows, D], padding rows included."""
        table: Tensor = self.hf.get_input_embeddings().weight
        return table

    @property
    def head(self) -> Tensor:
        """The output table, [rows, D]; the same tensor as `table` where the model ties them."""
        head: Tensor = self.hf.get_output_embeddings().weight
        return head

    @property
    def positions(self) -> int:
        """Tokens in a row that the model was made for; beyond reach where its configuration does not say."""
        return positions_of(self.hf.config)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.table.device

    @property
    def packed(self) -> bool:
        """Whether the linear layers are laid out for the processor (`prepare_inference`)."""
        return self._packed_head is not None

    def train_rows(self, rows: range, *, backbone: bool = False) -> None:
        """Of the tables, train these rows only; with `backbone`, everything that is no table trains too."""
        tied = self.head.data_ptr() == self.table.data_ptr()
        self.hf.requires_grad_(backbone)
        self.table.requires_grad_(False)
        self.head.requires_grad_(False)
        self.block = RowBlock(self.table, None if tied else self.head, rows)

    def add_adapters(self, lora: LoraSettings) -> None:
        """Put trainable low-rank adapters beside every linear layer of the frozen backbone (not the head)."""
        from peft import LoraConfig, LoraModel

        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
        self._adapters = [LoraModel(self.hf, config, "default")]

    def merge_rows(self) -> None:
        """Write what was trained apart, rows and adapters, into the weights it belongs to, and unfreeze everything."""
        while self._adapters:
            self.hf = self._adapters.pop().merge_and_unload()
        if self.block is None:
            return
        with torch.no_grad():
            self.table[self.block.first : self.block.stop] = self.block.rows.to(self.table.dtype)
            if self.block.head_rows is not None:
                self.head[self.block.first : self.block.stop] = self.block.head_rows.to(self.head.dtype)
        self.block = None
        self.hf.requires_grad_(True)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids [...]."""
        embedded: Tensor = self.hf.get_input_embeddings()(ids)
        if self.block is None:
            return embedded
        scale = getattr(self.hf.get_input_embeddings(), "embed_scale", 1.0)
        inside = (ids >= self.block.first) & (ids < self.block.stop)
        rows = functional.embedding((ids - self.block.first).clamp(0, len(self.block.rows) - 1), self.block.rows)
        return torch.where(inside[..., None], (rows * scale).to(embedded.dtype), embedded)

    def hidden(self, inputs: Tensor, tree: Pass) -> Tensor:
        """Final hidden states [N, D] of token ids [N] or input embeddings [N, D], in one tree pass."""
        embedded = inputs if inputs.is_floating_point() else self.embed(inputs)
        if self._fused is not None:
            return self._fused.hidden(embedded, tree)
        output = self.hf.base_model(
            inputs_embeds=embedded[None], position_ids=tree.positions(), use_cache=False, tree=tree
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    def last_hidden(self, inputs: Tensor, extension: Extension) -> Tensor:
        """Final hidden state of each document's last token [B, D], and the cache filled."""
        if self._fused is None:
            return self.hidden(inputs, extension)[extension.last]
        return self._fused.last(inputs if inputs.is_floating_point() else self.embed(inputs), extension)

    def output(self) -> Head:
        """The output rows in use; padding rows are no part of it."""
        table = self.head[: self.vocabulary.used]
        if self.block is None:
            return Head(table)
        return Head(table, self.block.rows if self.block.head_rows is None else self.block.head_rows, self.block.first)

    def logits(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """Logits of `rows` (all rows in use if None) for hidden states [..., D]."""
        if rows is None and self._packed_head is not None:
            whole: Tensor = self._packed_head(hidden)
            return whole
        return self.output().logits(hidden, rows)

    def exact_logits(self, hidden: Tensor, rows: slice) -> Tensor:
        """As `logits`, in float32 whatever the model's type: rounded to bfloat16, neighbours in a ranking would tie."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.output().logits(hidden.float(), rows)


def check_adapters(stages: Iterable[TrainingSettings]) -> None:
    """Raise RecipeError, before anything is done, where a stage trains adapters and peft is not installed."""
    wanted = [stage.name for stage in stages if getattr(stage, "lora", None) is not None]
    if wanted and find_spec("peft") is None:
        raise RecipeError(f"stages.{wanted[0]}.lora needs peft: pip install 'pauserec[peft]'")


def positions_of(shape: Any) -> int:
    """Tokens in a row that a model was made for; beyond reach where its configuration does not say."""
    return int(getattr(shape, "max_position_embeddings", None) or sys.maxsize)


def save_rows(path: Path, rows: Tensor) -> None:
    """Write a block of rows (safetensors)."""
    save_file({"rows": rows.detach().float().contiguous()}, path)


def load_rows(path: Path) -> Tensor:
    """Read a block of rows, float32 [n, D]."""
    return load_file(path)["rows"]
