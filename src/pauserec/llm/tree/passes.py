"""A trunk and its branches in one forward pass.

Documents lie one after another in a single flat row of tokens, without padding: linear layers see only real tokens, and
attention runs per document. A document is a trunk (causal) and branches. A branch sees the first `attach` tokens of its
trunk and its own earlier tokens, never another branch, and its positions go on from `attach`. So the states of a branch
equal those of a separate sequence `trunk[:attach] + branch`. All documents may begin with the same tokens (the words of
a prompt's template): these stand in the row once, first, and every document sees them.

It works for every Hugging Face causal LM whose attention goes through `ALL_ATTENTION_FUNCTIONS` (Llama, Qwen3, Gemma 3,
...): the pass rides through the model's forward as a keyword argument and is met again inside our attention function.

Shapes: N tokens of the pass, H heads, G key/value heads, D head width, T trunk tokens, n document tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from pauserec.errors import ModelError
from pauserec.llm.tree.attention import attend, blocks, causal, lower

IMPLEMENTATION = "pauserec_tree"


LITTLE, MUCH = (1.2, 8), (2.0, 64)
"""How unequal documents may be that are padded together: on a CPU padding costs time, on a GPU every group does."""


@dataclass(frozen=True)
class Document:
    """One document of a pass: `trunk` tokens, then the branches' tokens, branch after branch.

    branches: (attach, length) of each; `attach` trunk tokens are visible to it, 1 <= attach <= trunk.
    """

    trunk: int
    branches: tuple[tuple[int, int], ...] = ()

    @property
    def length(self) -> int:
        """Tokens of trunk and branches together."""
        return self.trunk + sum(length for _, length in self.branches)

    def positions(self) -> Tensor:
        """Position of every token, int64 [n]."""
        parts = [torch.arange(self.trunk)]
        parts += [torch.arange(attach, attach + length) for attach, length in self.branches]
        return torch.cat(parts)

    def branch_mask(self, window: int | None, opening: int = 0) -> Tensor:
        """Whether branch token i may see token j, bool [n - T, opening + n]; `window` limits how far back."""
        n, trunk = self.length, self.trunk
        attach = torch.cat([torch.full((length,), start) for start, length in self.branches])
        owner = torch.cat([torch.full((length,), i) for i, (_, length) in enumerate(self.branches)])
        position = self.positions()
        mask = torch.ones(n - trunk, opening + n, dtype=torch.bool)
        mask[:, opening : opening + trunk] = torch.arange(trunk) < attach[:, None]
        mask[:, opening + trunk :] = (owner[:, None] == owner) & (position[trunk:, None] >= position[trunk:])
        if window is not None:
            mask &= position[trunk:, None] - torch.cat([torch.arange(-opening, 0), position]) < window
        return mask


@dataclass(frozen=True)
class _Bucket:
    """Parts of similar documents, run as one padded batch. Padding of queries is thrown away, padding of keys never seen.

    queries, keys: int64 [b, L] and [b, n], flat positions (padded with a real one). real: places of true queries in [b * L].
    documents: whose branches these are; none for trunks, which are causal: their padding comes last.
    masks: per window bool [b, 1, L, n] of branches.
    """

    queries: Tensor
    keys: Tensor
    real: Tensor
    documents: tuple[Document, ...] = ()
    opening: int = 0
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [H, real queries, D] from flat q [H, N, D] and k, v [G, N, D]."""
        q, k, v = _take(q, self.queries), _take(k, self.keys), _take(v, self.keys)
        output = attend(q, k, v, scale, self._mask(window)) if self.documents else causal(q, k, v, scale, window)
        return output.transpose(0, 1).flatten(1, 2).index_select(1, self.real)

    def _mask(self, window: int | None) -> Tensor:
        if window not in self.masks:
            mask = torch.zeros(*self.queries.shape, self.keys.shape[1], dtype=torch.bool)
            mask[:, :, 0] = True
            for row, document in enumerate(self.documents):
                own = document.branch_mask(window, self.opening)
                mask[row, : own.shape[0], : own.shape[1]] = own
            self.masks[window] = mask[:, None].to(self.queries.device)
        return self.masks[window]


@dataclass
class TreePass:
    """What the attention function needs to know about one pass over whole documents (llm/tree/cache.py: over cached ones).

    opening: tokens at the row's start that every document begins with.
    """

    documents: Sequence[Document]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    opening: int = 0

    def __post_init__(self) -> None:
        starts = torch.tensor([self.opening, *(document.length for document in self.documents)]).cumsum(0).tolist()
        self._starts = starts[:-1]
        trunks = [document.trunk for document in self.documents]
        branched = [row for row, document in enumerate(self.documents) if document.branches]
        self._buckets = [self._first()] if self.opening else []
        padding = MUCH if self.device.type == "cuda" else LITTLE
        self._buckets += [self._trunks(rows) for rows in _similar(list(range(len(trunks))), trunks, padding)]
        whole = [document.length for document in self.documents]
        self._buckets += [self._branches(rows) for rows in _similar(branched, whole, padding)]
        self._order = torch.cat([bucket.queries.flatten()[bucket.real] for bucket in self._buckets]).argsort()

    def positions(self) -> Tensor:
        """Position ids, int64 [1, N]."""
        parts = [document.positions() + self.opening for document in self.documents]
        return torch.cat([torch.arange(self.opening), *parts]).to(self.device)[None]

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that attention computes on a CPU, padding and masked ones included."""
        total = 0
        for bucket in self._buckets:
            rows, length = bucket.queries.shape
            before = bucket.keys.shape[1] - length
            spans = [(0, length)] if bucket.documents else blocks(length)
            total += rows * sum((stop - start) * (before + stop) for start, stop in spans)
        return total

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D]."""
        q, k, v = lower(q), lower(k), lower(v)
        outputs = [bucket.attend(q[0], k[0], v[0], scale, window) for bucket in self._buckets]
        return torch.cat(outputs, dim=1).index_select(1, self._order)[None]

    def _first(self) -> _Bucket:
        index, real = self._padded([(0, self.opening)])
        return _Bucket(index, index, real)

    def _trunks(self, rows: list[int]) -> _Bucket:
        index, real = self._padded([(self._starts[row], self.documents[row].trunk) for row in rows])
        return _Bucket(index, self._after_opening(index), real)

    def _branches(self, rows: list[int]) -> _Bucket:
        documents = tuple(self.documents[row] for row in rows)
        keys, _ = self._padded([(self._starts[row], self.documents[row].length) for row in rows])
        queries, real = self._padded(
            [
                (self._starts[row] + self.documents[row].trunk, d.length - d.trunk)
                for row, d in zip(rows, documents, strict=True)
            ]
        )
        return _Bucket(queries, self._after_opening(keys), real, documents, self.opening)

    def _after_opening(self, index: Tensor) -> Tensor:
        return torch.cat([torch.arange(self.opening, device=self.device).expand(len(index), -1), index], dim=1)

    def _padded(self, spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Flat positions of (start, length) spans, padded to the longest with each span's start; places of the true ones."""
        starts, lengths = torch.tensor(spans).T
        places = torch.arange(int(lengths.max()))
        real = places < lengths[:, None]
        index = starts[:, None] + places * real
        return index.to(self.device), real.flatten().nonzero()[:, 0].to(self.device)


def _similar(rows: Sequence[int], lengths: Sequence[int], padding: tuple[float, int]) -> list[list[int]]:
    """Rows grouped so that in a group of shortest length l none is longer than padding[0] * l + padding[1]."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row]):
        if groups and lengths[row] <= padding[0] * lengths[groups[-1][0]] + padding[1]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _take(x: Tensor, index: Tensor) -> Tensor:
    """[H, N, D] at flat positions [b, L] -> [b, H, L, D]."""
    return x.index_select(1, index.flatten()).view(len(x), *index.shape, -1).transpose(0, 1)


class Pass(Protocol):
    """What rides through a model's forward: the attention of one pass, and its positions."""

    def positions(self) -> Tensor:
        """Position ids, int64 [1, N]."""
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D]."""
        ...


class Extension(Pass, Protocol):
    """A pass after which only the last token of each document is wanted.

    last: int64 [B], their places in the pass.
    """

    last: Tensor

    def attend_last(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """As `attend`, for those tokens only: q [1, H, B, D] gives [1, H, B, D]; k, v are whole."""
        ...


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    tree: Pass | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Meets transformers' attention interface; refuses to run outside a tree pass rather than guess a mask."""
    if tree is None:
        raise ModelError(
            "this model is set up for tree passes: load it with attn_implementation='sdpa' to use it directly"
        )
    if softcap is not None:
        raise ModelError(
            "models with soft-capped attention logits (Gemma 2) are not supported: choose another backbone"
        )
    output = tree.attend(int(module.layer_idx), query, key, value, scaling, sliding_window)  # type: ignore[arg-type]
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _attention)
# No mask is registered beside it: the pass makes its own, and transformers would look for packed documents on the host.
