"""The grown vocabulary: where the SID tokens, `<pause>` and the chat tokens stand, and how untrusted text is encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from pauserec.errors import ModelError
from pauserec.records import IntArray
from pauserec.semantic_ids.codes import SemanticIds

PAUSE = "<pause>"


class PlainText:
    """Encodes text that nobody vouches for: no special or added token is ever recognised in it.

    `split_special_tokens=True` does not do this: tokens that were added to a vocabulary are matched all the same.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        state = orjson.loads(tokenizer.backend_tokenizer.to_str())
        self._control = {token["id"] for token in state["added_tokens"]}
        state["added_tokens"], state["post_processor"] = [], None
        state["truncation"], state["padding"] = None, None
        self._tokenizer = Tokenizer.from_str(orjson.dumps(state).decode())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text. A control id that a vocabulary lets through all the same is left out."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[i for i in encoding.ids if i not in self._control] for encoding in encodings]


@dataclass(frozen=True)
class Vocabulary:
    """Token numbers of a grown model.

    first_sid: row of `<|sid_begin|>`; the SID rows are contiguous: begin, end, then the codes level by level.
    pause: row of `<pause>`, the last one in use. used: rows in use; the table is padded beyond.
    """

    first_sid: int
    pause: int
    used: int
    code_offsets: tuple[int, ...]
    codebook_sizes: tuple[int, ...]

    @property
    def begin(self) -> int:
        """Row of `<|sid_begin|>`."""
        return self.first_sid

    @property
    def end(self) -> int:
        """Row of `<|sid_end|>`."""
        return self.first_sid + 1

    @property
    def sid_rows(self) -> range:
        """Rows of all SID tokens."""
        return range(self.first_sid, self.pause)

    @property
    def levels(self) -> tuple[slice, ...]:
        """Rows of each level's codes."""
        return tuple(
            slice(first, first + size) for first, size in zip(self.code_offsets, self.codebook_sizes, strict=True)
        )

    def item_tokens(self, ids: SemanticIds) -> IntArray:
        """Code tokens of every item, int64 [n_items, L]."""
        return np.asarray(ids.codes + np.asarray(self.code_offsets), dtype=np.int64)


def grow_tokenizer(tokenizer: Any, ids: SemanticIds) -> Vocabulary:
    """Add the SID tokens and `<pause>` as special tokens. Raises ModelError if the tokenizer has any of them already."""
    tokens = [*ids.tokens(), PAUSE]
    known = tokenizer.get_vocab()
    taken = next((token for token in tokens if token in known), None)
    if taken is not None:
        raise ModelError(f"the model's tokenizer already has {taken!r}: start from a model that was not grown before")
    tokenizer.add_special_tokens({"additional_special_tokens": tokens}, replace_extra_special_tokens=False)
    return find_vocabulary(tokenizer, ids)


def find_vocabulary(tokenizer: Any, ids: SemanticIds) -> Vocabulary:
    """Where the tokens of `ids` stand in a grown tokenizer. Raises ModelError if they are not all there, in order."""
    tokens = [*ids.tokens(), PAUSE]
    rows = tokenizer.convert_tokens_to_ids(tokens)
    if rows != list(range(rows[0] or 0, (rows[0] or 0) + len(tokens))):
        raise ModelError("this checkpoint's tokenizer does not hold these semantic IDs: it belongs to another run")
    first = rows[0]
    return Vocabulary(
        first_sid=first,
        pause=rows[-1],
        used=len(tokenizer),
        code_offsets=tuple(first + ids.level_offset(level) for level in range(len(ids.sizes))),
        codebook_sizes=tuple(ids.sizes),
    )
