"""A request of fixed shape: one function of tensors that never waits for the device, as CUDA graphs need it.

The same search as llm/decode/decoder.py, over prompts padded at their ends to one length. Everything that differs between two
requests of a shape (tokens, lengths, what may be offered) stands in buffers that are written beforehand.

Shapes: B requests, T tokens of the longest prompt a shape takes, H heads, G key/value heads, D head width.
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
    ahead: whether the last two levels are scored in one call.
    """

    batch: int
    room: int
    beams: int
    denied: int
    allowed: int | None
    normalise: Normalise
    ahead: bool


class FixedCache(TreeCache):
    """A cache that every request of a shape writes anew; how long its prompts are stands in a tensor, int64 [B]."""

    def __init__(self, shape: Shape, levels: int, device: torch.device) -> None:
        super().__init__(shape.batch, shape.room, branch_tokens(shape.beams, levels), device)
        self.past = [shape.room] * shape.batch
        self.lengths = torch.ones(shape.batch, dtype=torch.int64, device=device)

    def trunks(self) -> Tensor:
        """See TreeCache.trunks."""
        return self.lengths


class FixedPass:
    """Prefill of whole prompts, padded at their ends: what comes after a token is never seen by it."""

    def __init__(self, cache: FixedCache) -> None:
        self._cache, self._batch, device = cache, len(cache.past), cache.device
        self._columns = torch.arange(cache.room, device=device)
        rows = torch.arange(self._batch, device=device)
        self._places = (rows[:, None] * cache.width + self._columns).flatten()
        self.last = rows * cache.room + cache.lengths - 1
        """Place of each prompt's last token in the pass, int64 [B]."""

    def positions(self) -> Tensor:
        """Position ids, int64 [1, B * T]."""
        return self._columns.repeat(self._batch)[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, B * T, D] for q [1, H, B * T, D] and k, v [1, G, B * T, D], which join the cache."""
        q, k, v = lower(q), lower(k), lower(v)
        self._cache.write(layer, self._places, k[0], v[0])
        q, k, v = (x[0].view(x.shape[1], self._batch, -1, x.shape[3]).transpose(0, 1) for x in (q, k, v))
        if window is None or window >= self._cache.room:
            output = causal(q, k, v, scale, None)
        else:  # a mask of this pass's own: one kept elsewhere could be freed while a graph still reads it
            place, key = self._columns[:, None], self._columns
            seen = visible_in_trunk(place, key, window)[None, None]
            output = attend(q, k, v, scale, prepared(seen, q, k))
        return output.transpose(0, 1).flatten(1, 2)[None]

    def attend_last(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """As `attend`, for each prompt's last token only: q [1, H, B, D] gives [1, H, B, D]; k, v are whole."""
        q, k, v = lower(q), lower(k), lower(v)
        self._cache.write(layer, self._places, k[0], v[0])
        keys, values = self._cache.read(layer, self._cache.room)
        seen = self._columns < self._cache.lengths[:, None]
        q = q[0].transpose(0, 1)[:, :, None]
        output = attend(q, keys, values, scale, prepared(seen[:, None, None], q, keys))
        return output[:, :, 0].transpose(0, 1)[None]


class FixedRequest:
    """One shape's buffers, and the work on them. `fill` writes a request, `run` does it."""

    def __init__(self, model: LanguageModel, catalogue: Catalogue, shape: Shape) -> None:
        device = model.device
        self.model, self.catalogue, self.shape = model, catalogue, shape
        self._cache = FixedCache(shape, len(catalogue.sizes), device)
        self._tokens = torch.zeros(shape.batch, shape.room, dtype=torch.int64, device=device)
        self._filter = Filter(
            torch.full((shape.batch, shape.denied), len(catalogue), device=device),
            None if shape.allowed is None else torch.full((shape.batch, shape.allowed), len(catalogue), device=device),
            torch.zeros(shape.batch, dtype=torch.bool, device=device),
        )

    def fill(self, prompts: Sequence[Sequence[int]], only: Filter | None) -> None:
        """Write at most B prompts of at most T tokens, and what each may be offered; rows that are left repeat the last."""
        whose = [*range(len(prompts)), *[len(prompts) - 1] * (self.shape.batch - len(prompts))]
        rows = [[*prompts[row], *[0] * (self.shape.room - len(prompts[row]))] for row in whose]
        self._tokens.copy_(torch.tensor(rows))
        self._cache.lengths.copy_(torch.tensor([len(prompts[row]) for row in whose]))
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
        hidden = self.model.last_hidden(self._tokens.flatten(), FixedPass(self._cache))
        kind = TwoLevelScorer if self.shape.ahead else LevelScorer
        scorer = kind(self.model, self._cache, hidden, self.shape.beams, full=self.shape.normalise == "full")
        return beam_search(
            scorer, self.catalogue, self.shape.beams, normalise=self.shape.normalise, only=self._filter, fixed=True
        )
