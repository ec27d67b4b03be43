"""A trunk and its branches in one forward pass.

Documents lie one after another in a single flat row of tokens, without padding: linear layers see only real tokens, and
attention runs per document. A document is a trunk (causal) and branches. A branch sees the first `attach` tokens of its
trunk and its own earlier tokens, never another branch, and its positions go on from `attach`. So the states of a branch
equal those of a separate sequence `trunk[:attach] + branch`.

It works for every Hugging Face causal LM whose attention goes through `ALL_ATTENTION_FUNCTIONS` (Llama, Qwen3, Gemma 3,
...): the pass rides through the model's forward as a keyword argument and is met again inside our attention function.

Shapes: N tokens of the pass, H heads, G key/value heads, D head width, T trunk tokens, n document tokens, K beams.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from pauserec.errors import ModelError

IMPLEMENTATION = "pauserec_tree"


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

    def branch_mask(self, window: int | None) -> Tensor:
        """Whether branch token i may see document token j, bool [n - T, n]; `window` limits how far back."""
        n, trunk = self.length, self.trunk
        attach = torch.cat([torch.full((length,), start) for start, length in self.branches])
        owner = torch.cat([torch.full((length,), i) for i, (_, length) in enumerate(self.branches)])
        position = self.positions()
        mask = torch.zeros(n - trunk, n, dtype=torch.bool)
        mask[:, :trunk] = torch.arange(trunk) < attach[:, None]
        mask[:, trunk:] = (owner[:, None] == owner) & (position[trunk:, None] >= position[trunk:])
        if window is not None:
            mask &= position[trunk:, None] - position < window
        return mask


@dataclass
class TreePass:
    """What the attention function needs to know about one training or prefill pass over documents.

    With `keep`, the keys and values of every layer stay in `cache` (one per document), for branches that come later.
    """

    documents: Sequence[Document]
    keep: bool = False
    cache: list["TrunkCache"] = field(default_factory=list)
    _masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keep:
            self.cache = [TrunkCache() for _ in self.documents]

    def positions(self, device: torch.device) -> Tensor:
        """Position ids, int64 [1, N]."""
        return torch.cat([document.positions() for document in self.documents]).to(device)[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D]."""
        outputs, start = [], 0
        for number, document in enumerate(self.documents):
            end, branches = start + document.length, start + document.trunk
            outputs.append(_causal(q[:, :, start:branches], k[:, :, start:branches], v[:, :, start:branches], scale, window))
            if document.branches:
                mask = self._mask(number, document, window, q.device)
                outputs.append(_attend(q[:, :, branches:end], k[:, :, start:end], v[:, :, start:end], scale, mask))
            if self.keep:
                self.cache[number].store(layer, k[:, :, start:branches], v[:, :, start:branches])
            start = end
        return torch.cat(outputs, dim=2)

    def _mask(self, number: int, document: Document, window: int | None, device: torch.device) -> Tensor:
        key = (number, window)
        if key not in self._masks:
            self._masks[key] = document.branch_mask(window).to(device)
        return self._masks[key]


@dataclass
class TrunkCache:
    """Keys and values of one trunk, and of the branch tokens that were added to it, per layer."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    trunk: int = 0

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Take over a trunk's k, v [1, G, T, D]."""
        if layer != len(self.keys):
            raise ModelError(f"layer {layer} ran out of order: this model's layers cannot be decoded as a tree")
        self.keys.append(k)
        self.values.append(v)
        self.trunk = k.shape[2]


@dataclass
class BranchPass:
    """One decoding step: K new tokens per document, each the child of a beam, over cached trunks.

    ancestors: per document, for each earlier step an int64 [K] tensor: which token of that step each beam descends from.
    """

    caches: Sequence[TrunkCache]
    ancestors: Sequence[Sequence[Tensor]]
    beams: int

    def positions(self, device: torch.device) -> Tensor:
        """Position ids, int64 [1, documents * K]."""
        depth = len(self.ancestors[0])
        starts = torch.tensor([cache.trunk + depth for cache in self.caches], device=device)
        return starts.repeat_interleave(self.beams)[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """As TreePass.attend; the new keys and values join the caches."""
        outputs = []
        for number, cache in enumerate(self.caches):
            new = slice(number * self.beams, (number + 1) * self.beams)
            cache.keys[layer] = torch.cat([cache.keys[layer], k[:, :, new]], dim=2)
            cache.values[layer] = torch.cat([cache.values[layer], v[:, :, new]], dim=2)
            mask = self._mask(number, window, q.device)
            outputs.append(_attend(q[:, :, new], cache.keys[layer], cache.values[layer], scale, mask))
        return torch.cat(outputs, dim=2)

    def _mask(self, number: int, window: int | None, device: torch.device) -> Tensor:
        """bool [K, T + steps * K + K]: the trunk, each beam's ancestors, and itself."""
        trunk, beams, steps = self.caches[number].trunk, self.beams, self.ancestors[number]
        rows = torch.arange(beams, device=device)
        mask = torch.zeros(beams, trunk + (len(steps) + 1) * beams, dtype=torch.bool, device=device)
        mask[:, :trunk] = True
        for step, parent in enumerate([*steps, rows]):
            mask[rows, trunk + step * beams + parent] = True
        if window is not None:
            position = torch.cat([torch.arange(trunk), trunk + torch.arange(len(steps) + 1).repeat_interleave(beams)])
            mask &= (trunk + len(steps) - position.to(device)) < window
        return mask


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    if window is None or window >= q.shape[2]:
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    back = torch.arange(q.shape[2], device=q.device)
    distance = back[:, None] - back
    return _attend(q, k, v, scale, (distance >= 0) & (distance < window))


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask[None, None], scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    tree: TreePass | BranchPass | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Meets transformers' attention interface; refuses to run outside a tree pass rather than guess a mask."""
    if tree is None:
        raise ModelError("this model is set up for tree passes: load it with attn_implementation='sdpa' to use it directly")
    if softcap is not None:
        raise ModelError("models with soft-capped attention logits (Gemma 2) are not supported: choose another backbone")
    output = tree.attend(int(module.layer_idx), query, key, value, scaling, sliding_window)  # type: ignore[arg-type]
    return output.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are made per document by the pass itself."""


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
