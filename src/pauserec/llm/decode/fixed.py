"""A request of fixed shape: one function of tensors that never waits for the device, as CUDA graphs need it.

The same search as llm/decode/decoder.py, over prompts, or what is new in them, padded at their ends to one length. Everything
that differs between two requests of a shape (tokens, lengths, kept beginnings, what may be offered) stands in buffers that are
written beforehand.

Shapes: B requests, T tokens of the longest prompt a shape takes, n tokens that run, H heads, G key/value heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauserec.decoding.beam import Beams, Normalise, beam_search
from pauserec.decoding.catalogue import Catalogue, Filter
from pauserec.llm.decode.scorer import LevelScorer, TwoLevelScorer
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.attention import attend, causal, lower, prepared
from pauserec.llm.tree.cache import TreeCache, branch_tokens
from pauserec.llm.tree.rule import visible_in_trunk


@dataclass(frozen=True)
class Shape:
    """What requests must agree on to share a graph.

    denied, allowed: places for each request's lists; allowed is None where no request has an allow-list.
    ahead: whether the last two levels are scored in one call. new: of prompts whose beginnings are kept, places for the
    tokens behind them; None where prompts run whole.
    """

    batch: int
    room: int
    beams: int
    denied: int
    allowed: int | None
    normalise: Normalise
    ahead: bool
    new: int | None = None


class FixedCache(TreeCache):
    """A cache that every request of a shape writes anew; how long its prompts are stands in a tensor, int64 [B]."""

    def __init__(self, shape: Shape, levels: int, device: torch.device) -> None:
        super().__init__(shape.batch, shape.room, branch_tokens(shape.beams, levels), device)
        self.past = [shape.room] * shape.batch
        self.lengths = torch.ones(shape.batch, dtype=torch.int64, device=device)
        self.begin = torch.zeros(shape.batch, dtype=torch.int64, device=device)
        """Tokens of each prompt that were put there, int64 [B]."""
        self._whole: Tensor | None = None
        self._held: list[Tensor | None] = [None] * shape.batch

    def trunks(self) -> Tensor:
        """See TreeCache.trunks."""
        return self.lengths

    def put(self, prefixes: Sequence[Tensor]) -> None:
        """Write kept beginnings, [layers, 2, tokens, G, D] each, where another one stands."""
        if self._whole is None:
            layers, both, _, groups, width = prefixes[0].shape
            # zeros, not empty: a masked value still meets the product 0 * value
            self._whole = prefixes[0].new_zeros(layers, both, len(self.past), self.width, groups, width)
            self.keys, self.values = list(self._whole[:, 0]), list(self._whole[:, 1])
        for row, prefix in enumerate(prefixes):
            if prefix is not self._held[row]:
                self._whole[:, :, row, : prefix.shape[2]].copy_(prefix)
                self._held[row] = prefix
        self.begin.copy_(torch.tensor([prefix.shape[2] for prefix in prefixes]))


class FixedPass:
    """Prefill of prompts, or of what is new in them, padded at their ends: what comes after a token is never seen by it."""

    def __init__(self, cache: FixedCache, new: int | None) -> None:
        self._cache, self._batch, device = cache, len(cache.past), cache.device
        self._new = cache.room if new is None else new
        self._behind = new is not None
        self._columns = cache.begin[:, None] + torch.arange(self._new, device=device)
        rows = torch.arange(self._batch, device=device)
        self._places = (rows[:, None] * cache.width + self._columns).flatten()
        self._masks: dict[int | None, Tensor] = {}
        self.last = rows * self._new + cache.lengths - cache.begin - 1
        """Place of each prompt's last token in the pass, int64 [B]."""

    def positions(self) -> Tensor:
        """Position ids, int64 [1, B * n]."""
        return self._columns.flatten()[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, B * n, D] for q [1, H, B * n, D] and k, v [1, G, B * n, D], which join the cache."""
        q, k, v = lower(q), lower(k), lower(v)
        self._cache.write(layer, self._places, k[0], v[0])
        q, k, v = (x[0].view(x.shape[1], self._batch, -1, x.shape[3]).transpose(0, 1) for x in (q, k, v))
        if self._behind:
            k, v = self._cache.read(layer, self._cache.room)
            if window not in self._masks:
                key = torch.arange(self._cache.room, device=q.device)
                seen = visible_in_trunk(self._columns[:, :, None], key, window)[:, None]
                self._masks[window] = prepared(seen, q, k)
            output = attend(q, k, v, scale, self._masks[window])
        elif window is None or window >= self._cache.room:
            output = causal(q, k, v, scale, None)
        else:  # a mask of this pass's own: one kept elsewhere could be freed while a graph still reads it
            key = torch.arange(self._cache.room, device=q.device)
            seen = visible_in_trunk(key[:, None], key, window)[None, None]
            output = attend(q, k, v, scale, prepared(seen, q, k))
        return output.transpose(0, 1).flatten(1, 2)[None]

    def attend_last(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """As `attend`, for each prompt's last token only: q [1, H, B, D] gives [1, H, B, D]; k, v are whole."""
        q, k, v = lower(q), lower(k), lower(v)
        self._cache.write(layer, self._places, k[0], v[0])
        keys, values = self._cache.read(layer, self._cache.room)
        seen = torch.arange(self._cache.room, device=q.device) < self._cache.lengths[:, None]
        q = q[0].transpose(0, 1)[:, :, None]
        output = attend(q, keys, values, scale, prepared(seen[:, None, None], q, keys))
        return output[:, :, 0].transpose(0, 1)[None]


class FixedRequest:
    """One shape's buffers, and the work on them. `fill` writes a request, `run` does it."""

    def __init__(self, model: LanguageModel, catalogue: Catalogue, shape: Shape) -> None:
        device = model.device
        self.model, self.catalogue, self.shape = model, catalogue, shape
        self.cache = FixedCache(shape, len(catalogue.sizes), device)
        self._new = shape.room if shape.new is None else shape.new
        self._tokens = torch.zeros(shape.batch, self._new, dtype=torch.int64, device=device)
        self._filter = Filter(
            torch.full((shape.batch, shape.denied), len(catalogue), device=device),
            None if shape.allowed is None else torch.full((shape.batch, shape.allowed), len(catalogue), device=device),
            torch.zeros(shape.batch, dtype=torch.bool, device=device),
        )

    def fill(
        self, prompts: Sequence[Sequence[int]], only: Filter | None, prefixes: Sequence[Tensor] | None = None
    ) -> None:
        """Write at most B prompts of at most T tokens, and what each may be offered; rows that are left repeat the last.

        prefixes: their kept beginnings, where the shape is of such.
        """
        whose = [*range(len(prompts)), *[len(prompts) - 1] * (self.shape.batch - len(prompts))]
        begin = [0] * len(prompts)
        if prefixes is not None:
            self.cache.put([prefixes[row] for row in whose])
            begin = [prefix.shape[2] for prefix in prefixes]
        new = [list(prompt[start:]) for prompt, start in zip(prompts, begin, strict=True)]
        self._tokens.copy_(torch.tensor([new[row] + [0] * (self._new - len(new[row])) for row in whose]))
        self.cache.lengths.copy_(torch.tensor([len(prompts[row]) for row in whose]))
        if only is None:
            self._filter.limited.fill_(False)
            self._filter.denied.fill_(len(self.catalogue))
            return
        self._filter.limited.copy_(only.limited[whose])
        self._filter.denied.copy_(self._wide(only.denied[whose], self.shape.denied))
        if self._filter.allowed is not None and only.allowed is not None:
            self._filter.allowed.copy_(self._wide(only.allowed[whose], self._filter.allowed.shape[1]))

    def _wide(self, listed: Tensor, width: int) -> Tensor:
        return pad(listed, (0, width - listed.shape[1]), value=len(self.catalogue))

    def run(self) -> Beams:
        """The best items of every row. With `shape.ahead`, `Beams.overflow` says whether they can be used."""
        hidden = self.model.last_hidden(self._tokens.flatten(), FixedPass(self.cache, self.shape.new))
        kind = TwoLevelScorer if self.shape.ahead else LevelScorer
        scorer = kind(self.model, self.cache, hidden, self.shape.beams, full=self.shape.normalise == "full")
        return beam_search(
            scorer, self.catalogue, self.shape.beams, normalise=self.shape.normalise, only=self._filter, fixed=True
        )
