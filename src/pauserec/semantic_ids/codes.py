"""The ID table: every item's code sequence, and the only place that knows how an ID is written as text.

One ID reads `<|sid_begin|><s_a_99><s_b_19><s_c_220><s_d_204><|sid_end|>`; each bracketed piece is one special token.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
from safetensors.numpy import save

from pauserec.errors import RunError, SemanticIdError
from pauserec.records import FloatArray, IntArray
from pauserec.runs.files import write_atomically
from pauserec.semantic_ids.assign import MAX_LEVELS, FreeCodes
from pauserec.semantic_ids.codebooks import Codebooks, read_tensors
from pauserec.semantic_ids.quality import report

TABLE = "semantic_ids.safetensors"
HEADER = "semantic_ids.json"
BEGIN = "<|sid_begin|>"
END = "<|sid_end|>"
LETTERS = "abcdefgh"


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """codes: int64 [n_items, L], rows unique, in the item order of the `Dataset`. sizes: codes per level.

    With quantizer.collisions = "digit" the digit is the last level. fingerprint: content hash, filled in if left empty.
    Raises SemanticIdError if two items share an ID or a code is outside its level.
    """

    codes: IntArray
    sizes: tuple[int, ...]
    fingerprint: str = ""

    def __post_init__(self) -> None:
        codes = np.array(self.codes, dtype=np.int64)
        if not 1 <= len(self.sizes) <= MAX_LEVELS or codes.ndim != 2 or codes.shape[1] != len(self.sizes):
            raise SemanticIdError(f"codes of shape {codes.shape} do not fit the {len(self.sizes)} levels of `sizes`")
        outside = (codes < 0) | (codes >= np.array(self.sizes))
        if outside.any():
            item, level = np.argwhere(outside)[0]
            raise SemanticIdError(
                f"item {item}: code {codes[item, level]} of level {level} is not below its size {self.sizes[level]}"
            )
        if len(np.unique(codes, axis=0)) != len(codes):
            raise SemanticIdError("two items share a semantic ID: resolve collisions (quantizer.collisions) first")
        codes.setflags(write=False)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "sizes", tuple(int(size) for size in self.sizes))
        object.__setattr__(self, "fingerprint", self.fingerprint or self.content_hash())

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def depth(self) -> int:
        """Codes per ID, L."""
        return len(self.sizes)

    def content_hash(self) -> str:
        """SHA-256 of the sizes and all codes."""
        digest = hashlib.sha256(repr(self.sizes).encode())
        digest.update(self.codes.astype("<i8").tobytes())
        return digest.hexdigest()

    def tokens(self) -> list[str]:
        """All special tokens in vocabulary order: begin, end, then the codes level by level."""
        codes = [token(level, code) for level, size in enumerate(self.sizes) for code in range(size)]
        return [BEGIN, END, *codes]

    def level_offset(self, level: int) -> int:
        """Place of the level's first code token within `tokens()`."""
        return 2 + sum(self.sizes[:level])

    def text(self, item: int) -> str:
        """The whole ID of an item number, begin and end included."""
        codes = "".join(token(level, code) for level, code in enumerate(self.codes[item].tolist()))
        return f"{BEGIN}{codes}{END}"

    def parse(self, text: str) -> list[tuple[int, ...]]:
        """Every complete code sequence in a text, in order, begin and end optional; whether an item has it or not."""
        found = (tuple(int(code) for code in match.groups()) for match in self._pattern.finditer(text))
        return [codes for codes in found if all(c < size for c, size in zip(codes, self.sizes, strict=True))]

    def item_of(self, codes: Sequence[int]) -> int | None:
        """The item number with just these codes, or None."""
        return self._items.get(tuple(int(code) for code in codes))

    def extend(self, vectors: FloatArray, codebooks: Codebooks) -> "SemanticIds":
        """A table with new items after the old ones, their IDs from the frozen codebooks; nobody else's ID changes.

        vectors: [m, width], made like those the codebooks were trained on. A new item whose nearest ID is taken gets
        the nearest free one, in the order given. Raises SemanticIdError when none is left or the vectors do not fit.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        width = codebooks.width
        if vectors.ndim != 2 or vectors.shape[1] != width or not np.isfinite(vectors).all():
            raise SemanticIdError(f"new vectors must be finite and of shape [m, {width}], not {list(vectors.shape)}")
        free = FreeCodes(self.sizes, self.codes)
        new = [free.take_nearest(latent, codebooks) for latent in codebooks.latents(vectors)]
        rows = np.array(new, dtype=np.int64).reshape(-1, self.depth)
        return SemanticIds(np.concatenate((self.codes, rows)), self.sizes)

    def quality(
        self, nearest: IntArray | None = None, categories: Sequence[tuple[str, ...]] | None = None
    ) -> dict[str, Any]:
        """Collision rates, codes used, perplexity and purity per level, items moved: see `quality.report`."""
        return report(self.codes, self.sizes, nearest, categories)

    def save(self, folder: Path) -> None:
        """Write `semantic_ids.safetensors`, then `semantic_ids.json` with its hash, into `folder`."""
        table = save({"codes": np.array(self.codes)})
        header = {
            "sizes": list(self.sizes),
            "items": len(self),
            "fingerprint": self.fingerprint,
            "sha256": hashlib.sha256(table).hexdigest(),
            "content": self.content_hash(),
        }
        write_atomically(folder / TABLE, table)
        write_atomically(folder / HEADER, orjson.dumps(header, option=orjson.OPT_INDENT_2))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises RunError if a file is missing, truncated or changed."""
        remedy = f"redo the step with --redo {folder.name}"
        try:
            header = orjson.loads((folder / HEADER).read_bytes())
            sizes, fingerprint = tuple(header["sizes"]), header["fingerprint"]
            expected, content = header["sha256"], header["content"]
            table = (folder / TABLE).read_bytes()
        except FileNotFoundError as error:
            raise RunError(f"{error.filename} is missing: {remedy}") from None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise RunError(f"{folder / HEADER} is damaged: {remedy}") from None
        if hashlib.sha256(table).hexdigest() != expected:
            raise RunError(f"{folder / TABLE} was changed or truncated: {remedy}")
        ids = cls(read_tensors(folder / TABLE)["codes"], sizes, fingerprint)
        if ids.content_hash() != content:
            raise RunError(f"{folder / HEADER} was changed: {remedy}")
        return ids

    @cached_property
    def _items(self) -> dict[tuple[int, ...], int]:
        return {tuple(row): number for number, row in enumerate(self.codes.tolist())}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("".join(f"<s_{letter}_(0|[1-9][0-9]{{0,4}})>" for letter in LETTERS[: self.depth]))


def token(level: int, code: int) -> str:
    """The text of one code's token."""
    return f"<s_{LETTERS[level]}_{code}>"
