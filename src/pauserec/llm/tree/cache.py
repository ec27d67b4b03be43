"""Keys and values of prompts that were run already, and the two passes that go on from them.

A cache has one buffer per layer, made once: room for the longest trunk, then a place for every branch token. Prefill
writes trunks into it, cold or behind a prefix that was kept from earlier; each decoding step writes K tokens per
document. Nothing is copied or reordered as beams are chosen: a beam sees its ancestors through the mask.

Shapes: B documents, H heads, G key/value heads, D head width, R room for a trunk, K beams, N tokens of a pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pauserec.decoding.beam import LOOK_AHEAD
from pauserec.errors import ModelError
from pauserec.llm.tree.attention import attend, causal, lower, prepared
from pauserec.llm.tree.passes import TreePass
from pauserec.llm.tree.rule import NOBODY, TRUNK, Layout, visible, visible_in_trunk


def branch_tokens(beams: int, levels: int) -> int:
    """Places for branch tokens that a search of so many beams and levels needs."""
    return beams * (levels - 2 + LOOK_AHEAD)


class TreeCache:
    """Keys and values of a batch of trunks and of the branch tokens added since.

    keys, values: per layer [B, R + branch tokens, G, D]. past: trunk tokens that each document holds.
    """

    def __init__(self, batch: int, room: int, branch_tokens: int, device: torch.device) -> None:
        self.room, self.width, self.device = room, room + branch_tokens, device
        self.past = [0] * batch
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def trunks(self) -> Tensor:
        """Trunk tokens of each document, on the cache's device, int64 [B]."""
        return torch.tensor(self.past, device=self.device)

    def write(self, layer: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k, v [G, N, D] at flat places [N] of the buffer [B * width]."""
        if layer == len(self.keys):
            shape = (len(self.past), self.width, k.shape[0], k.shape[2])
            # zeros, not empty: a masked value still meets the product 0 * value
            self.keys.append(k.new_zeros(shape))
            self.values.append(v.new_zeros(shape))
        if layer > len(self.keys):
            raise ModelError(f"layer {layer} ran out of order: this model's layers cannot be decoded as a tree")
        for buffer, new in ((self.keys, k), (self.values, v)):
            buffer[layer].view(-1, *buffer[layer].shape[2:]).index_copy_(0, places, new.transpose(0, 1))

    def read(self, layer: int, width: int) -> tuple[Tensor, Tensor]:
        """The first `width` places of every document, [B, G, width, D]: views, nothing is copied."""
        return self.keys[layer][:, :width].transpose(1, 2), self.values[layer][:, :width].transpose(1, 2)

    def prefix(self, row: int, length: int) -> Tensor:
        """A copy of a document's first `length` trunk tokens, [layers, 2, length, G, D]."""
        layers = zip(self.keys, self.values, strict=True)
        return torch.stack([torch.stack([k[row, :length], v[row, :length]]) for k, v in layers])

    def restore(self, prefixes: Sequence[Tensor | None]) -> None:
        """Start every document with a kept prefix, or with none. To be called before the first pass."""
        kept = next((prefix for prefix in prefixes if prefix is not None), None)
        if kept is None:
            return
        for layer in range(len(kept)):
            for buffers, part in ((self.keys, 0), (self.values, 1)):
                buffer = kept.new_zeros(len(self.past), self.width, *kept.shape[3:])
                if all(prefix is kept for prefix in prefixes):  # the template alone: one copy, not one a row
                    buffer[:, : kept.shape[2]] = kept[layer, part]
                else:
                    for row, prefix in enumerate(prefixes):
                        if prefix is not None:
                            buffer[row, : prefix.shape[2]] = prefix[layer, part]
                buffers.append(buffer)
        self.past = [0 if prefix is None else prefix.shape[2] for prefix in prefixes]


class ExtendPass:
    """Prefill: new trunk tokens of every document, behind those that the cache holds.

    lengths: new tokens per document, 0 where there is none; they lie one after another in the pass, without padding.
    """

    def __init__(self, cache: TreeCache, lengths: Sequence[int]) -> None:
        self._cache, self._begin = cache, list(cache.past)
        self._lengths = list(lengths)
        cache.past = [begin + length for begin, length in zip(self._begin, lengths, strict=True)]
        if max(cache.past) > cache.room:
            raise ValueError(f"a trunk of {max(cache.past)} tokens does not fit in a cache with room for {cache.room}")
        row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        offset = torch.cat([torch.arange(length) for length in lengths])
        column = torch.tensor(self._begin)[row] + offset
        self._positions = column.to(cache.device)
        self._places = (row * cache.width + column).to(cache.device)
        self._cold = not any(self._begin)
        self._fresh = TreePass(Layout.of_trunks(lengths), cache.device) if self._cold and len(lengths) > 1 else None
        self._padded = (row * max(lengths) + offset).to(cache.device)
        self._masks: dict[int | None, Tensor] = {}
        self.last = (torch.tensor(lengths).cumsum(0) - 1).clamp(min=0).to(cache.device)
        """Place of each document's last new token in the pass, int64 [B]; without new tokens, some other's."""

    def positions(self) -> Tensor:
        """Position ids, int64 [1, N]."""
        return self._positions[None]

    def attend_last(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """As `attend`, for each document's last token only: q [1, H, B, D] gives [1, H, B, D]; k, v are whole."""
        q, k, v = lower(q), lower(k), lower(v)
        self._cache.write(layer, self._places, k[0], v[0])
        past = torch.tensor(self._cache.past, device=self._cache.device)
        keys, values = self._cache.read(layer, max(self._cache.past))
        seen = torch.arange(keys.shape[2], device=self._cache.device) < past[:, None]
        q = q[0].transpose(0, 1)[:, :, None]
        output = attend(q, keys, values, scale, prepared(seen[:, None, None], q, keys))
        return output[:, :, 0].transpose(0, 1)[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D], which join the cache."""
        q, k, v = lower(q), lower(k), lower(v)
        self._cache.write(layer, self._places, k[0], v[0])
        if self._fresh is not None:  # the new tokens are all there is: no padding to skip
            return self._fresh.attend(layer, q, k, v, scale, window)
        if self._cold:
            return causal(q, k, v, scale, window)
        batch, longest = len(self._lengths), max(self._lengths)
        keys, values = self._cache.read(layer, max(self._cache.past))
        if window not in self._masks:
            self._masks[window] = prepared(self._mask(window), q, k)
        heads, _, width = q.shape[1:]
        if batch > 1:
            padded = q.new_zeros(heads, batch * longest, width).index_copy_(1, self._padded, q[0])
            q = padded.view(heads, batch, longest, width).transpose(0, 1)
        output = attend(q, keys, values, scale, self._masks[window])
        if batch == 1:
            return output
        return output.transpose(0, 1).reshape(heads, batch * longest, width).index_select(1, self._padded)[None]

    def _mask(self, window: int | None) -> Tensor:
        """bool [B, 1, longest, T]: what each new token may see; a padded query sees the first key, and is thrown away."""
        device = self._cache.device
        begin = torch.tensor(self._begin, device=device)[:, None, None]
        place = begin + torch.arange(max(self._lengths), device=device)[:, None]
        key = torch.arange(max(self._cache.past), device=device)
        mask: Tensor = visible_in_trunk(place, key, window)
        return mask[:, None]


class BranchPass:
    """One decoding step over cached trunks: K tokens per document, each the child of a beam, and at times their children.

    ancestors: for each earlier step int64 [B, K]: which token of that step each beam descends from.
    owners: int64 [B, M], which of the K tokens each of M more tokens follows; they come after the K of their document.
    """

    def __init__(self, cache: TreeCache, ancestors: Sequence[Tensor], beams: int, owners: Tensor | None = None) -> None:
        self._cache, self._ancestors, self._beams, self._owners = cache, ancestors, beams, owners
        self._past = cache.trunks()
        self._width = beams + (0 if owners is None else owners.shape[1])
        first = cache.room + len(ancestors) * beams
        rows = torch.arange(len(cache.past), device=cache.device)[:, None] * cache.width
        self._places = (rows + first + torch.arange(self._width, device=cache.device)).flatten()
        self._stop = first + self._width
        if self._stop > cache.width:
            raise ValueError(
                f"{self._stop} places are needed in a cache of {cache.width}: make it for more branch tokens"
            )
        self._masks: dict[int | None, Tensor] = {}

    def positions(self) -> Tensor:
        """Position ids, int64 [1, B * (K + M)]."""
        deeper = torch.arange(self._width, device=self._past.device) >= self._beams
        return (self._past[:, None] + len(self._ancestors) + deeper).flatten()[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """As ExtendPass.attend; the new keys and values join the cache."""
        q, k, v = lower(q), lower(k), lower(v)
        self._cache.write(layer, self._places, k[0], v[0])
        keys, values = self._cache.read(layer, self._stop)
        if window not in self._masks:
            self._masks[window] = prepared(self._mask(window), q, k)
        heads, _, width = q.shape[1:]
        queries = q.view(heads, len(self._past), self._width, width).transpose(0, 1)
        output = attend(queries, keys, values, scale, self._masks[window])
        return output.transpose(0, 1).reshape(1, heads, -1, width)

    def _mask(self, window: int | None) -> Tensor:
        """bool [B, 1, K + M, R + steps * K + K + M]: the trunk, each token's ancestors, and itself.

        A token is a branch of its own. An ancestor may have several descendants, so a key belongs to another branch for every
        query: to the query's own where it is among its ancestors, else to nobody's.
        """
        device, beams, steps = self._past.device, self._beams, len(self._ancestors)
        token = torch.arange(self._width, device=device)
        deeper = (token >= beams).long()
        line, parent = list(self._ancestors), token.expand(len(self._past), -1)
        if self._owners is not None:
            line = [torch.cat([step, step.gather(1, self._owners)], dim=1) for step in line]
            parent = torch.cat([parent[:, :beams], self._owners], dim=1)
        own = (token[:, None] == token) | (parent[..., None] == token)
        descends = torch.cat([*(step[..., None] == token[:beams] for step in line), own], dim=-1)
        branch = torch.where(descends, token[:, None], NOBODY)
        trunk = torch.arange(self._cache.room, device=device)
        below = torch.cat([torch.arange(steps, device=device).repeat_interleave(beams), steps + deeper])
        past = self._past[:, None, None]
        query = (0, token[:, None], past + steps + deeper[:, None], past)
        seen = [visible(query, (0, TRUNK, trunk, 0), window), visible(query, (0, branch, past + below, 0), window)]
        return torch.cat(seen, dim=-1)[:, None]
