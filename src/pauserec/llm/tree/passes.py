"""A trunk and its branches in one forward pass.

Documents lie one after another in a single flat row of tokens, without padding: linear layers see only real tokens, and
attention runs per document. Who sees whom is said in llm/tree/rule.py: so the states of a branch equal those of a separate
sequence `trunk[:attach] + branch`.

It works for every Hugging Face causal LM whose attention goes through `ALL_ATTENTION_FUNCTIONS` (Llama, Qwen3, Gemma 3,
...): the pass rides through the model's forward as a keyword argument and is met again inside our attention function.

Shapes: N tokens of the pass, H heads, G key/value heads, D head width, b documents of a bucket, L queries, n keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from pauserec.errors import ModelError
from pauserec.llm.tree.attention import attend, blocks, causal, lower
from pauserec.llm.tree.rule import PLACE, Layout, visible

LITTLE, MUCH = (1.2, 8), (2.0, 64)
"""How unequal documents may be that are padded together: on a CPU padding costs time, on a GPU every group does."""


@dataclass(frozen=True)
class _Bucket:
    """Parts of similar documents, run as one padded batch. Padding of queries is thrown away, padding of keys never seen.

    queries, keys: int64 [b, L] and [b, n], flat positions (padded with a real one). real: places of true queries in [b * L].
    true_keys: bool [b, n], of branches; None for trunks, which are causal: their padding comes last.
    masks: per window bool [b, 1, L, n] of branches.
    """

    queries: Tensor
    keys: Tensor
    real: Tensor
    true_keys: Tensor | None = None
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, marks: Tensor) -> Tensor:
        """Attention output [H, real queries, D] from flat q [H, N, D] and k, v [G, N, D]; marks: int64 [4, N]."""
        q, k, v = _take(q, self.queries), _take(k, self.keys), _take(v, self.keys)
        if self.true_keys is None:
            output = causal(q, k, v, scale, window)
        else:
            output = attend(q, k, v, scale, self._mask(window, marks, self.true_keys))
        return output.transpose(0, 1).flatten(1, 2).index_select(1, self.real)

    def _mask(self, window: int | None, marks: Tensor, true_keys: Tensor) -> Tensor:
        if window not in self.masks:
            seen = visible(marks[:, self.queries, None], marks[:, self.keys][:, :, None], window)
            self.masks[window] = (seen & true_keys[:, None])[:, None]
        return self.masks[window]


class TreePass:
    """What the attention function needs to know about one pass over whole documents (llm/tree/cache.py: over cached ones)."""

    def __init__(self, layout: Layout, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.marks = layout.marks(self.device)
        self._opening = layout.opening
        starts, trunks, lengths = (part.tolist() for part in layout.bounds())
        padding = MUCH if self.device.type == "cuda" else LITTLE
        documents = range(len(starts))
        branched = [row for row in documents if lengths[row] > trunks[row]]
        self._buckets = [self._first()] if self._opening else []
        for rows in _similar(documents, trunks, padding):
            self._buckets.append(self._trunks([(starts[row], trunks[row]) for row in rows]))
        for rows in _similar(branched, lengths, padding):
            self._buckets.append(self._branches([(starts[row], trunks[row], lengths[row]) for row in rows]))
        self._order = torch.cat([bucket.queries.flatten()[bucket.real] for bucket in self._buckets]).argsort()

    def positions(self) -> Tensor:
        """Position ids, int64 [1, N]."""
        return self.marks[PLACE][None]

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that attention computes on a CPU, padding and masked ones included."""
        total = 0
        for bucket in self._buckets:
            rows, length = bucket.queries.shape
            before = bucket.keys.shape[1] - length
            spans = blocks(length) if bucket.true_keys is None else [(0, length)]
            total += rows * sum((stop - start) * (before + stop) for start, stop in spans)
        return total

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D]."""
        q, k, v = lower(q), lower(k), lower(v)
        outputs = [bucket.attend(q[0], k[0], v[0], scale, window, self.marks) for bucket in self._buckets]
        return torch.cat(outputs, dim=1).index_select(1, self._order)[None]

    def _first(self) -> _Bucket:
        index, true = self._padded([(0, self._opening)])
        return _Bucket(index, index, _places(true))

    def _trunks(self, spans: list[tuple[int, int]]) -> _Bucket:
        """spans: first token and length of each trunk."""
        index, true = self._padded(spans)
        return _Bucket(index, self._after_opening(index), _places(true))

    def _branches(self, spans: list[tuple[int, int, int]]) -> _Bucket:
        """spans: first token, length of the trunk and of the whole of each document."""
        keys, true_keys = self._padded([(start, length) for start, _, length in spans])
        queries, true = self._padded([(start + trunk, length - trunk) for start, trunk, length in spans])
        seen = true_keys.new_ones(len(spans), self._opening)
        return _Bucket(queries, self._after_opening(keys), _places(true), torch.cat([seen, true_keys], dim=1))

    def _after_opening(self, index: Tensor) -> Tensor:
        return torch.cat([torch.arange(self._opening, device=self.device).expand(len(index), -1), index], dim=1)

    def _padded(self, spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Flat positions of (start, length) spans, padded to the longest with each span's start; which of them are true."""
        starts, lengths = torch.tensor(spans).T
        places = torch.arange(int(lengths.max()))
        true = places < lengths[:, None]
        index = starts[:, None] + places * true
        return index.to(self.device), true.to(self.device)


def _places(true: Tensor) -> Tensor:
    return true.flatten().nonzero()[:, 0]


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


@cache
def tree_attention() -> str:
    """Our attention's name for `set_attn_implementation`; transformers learns it when it is first asked for."""
    from transformers import AttentionInterface

    # No mask is registered beside it: the pass makes its own, and transformers would look for packed documents on the host.
    AttentionInterface.register("pauserec_tree", _attention)
    return "pauserec_tree"
