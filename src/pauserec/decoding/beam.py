"""Constrained beam search over any next-code function.

Exact in the sense of beam search: at each level the K best legal prefixes survive; with K at least the catalogue's size
the result is the true ranking. Nothing outside the catalogue can be scored, and no item can come out twice, because a
position of the catalogue belongs to exactly one code sequence. The model's own generation settings play no part.

A large catalogue is sparse: after all but two codes a beam has hardly more than one legal child. A model that can do so
is asked for the scores of all those children together with their parents', which saves a call and changes no result.

Shapes: B requests, K beams, C codes of a level.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pauserec.decoding.catalogue import Catalogue, Filter

Normalise = Literal["full", "codebook", "legal"]
LOOK_AHEAD = 2
"""The last two levels are scored in one call if the beams have at most so many children each, on average."""


@dataclass(frozen=True)
class CodeScores:
    """Scores of the next code. logits: float32 [B, K, C]; normaliser: log-sum-exp over the whole vocabulary [B, K]."""

    logits: Tensor
    normaliser: Tensor | None = None


class NextCode(Protocol):
    """A model seen as a scorer of codes."""

    def start(self) -> CodeScores:
        """Scores of the first code; K is 1."""
        ...

    def advance(self, parents_BK: Tensor, codes_BK: Tensor) -> CodeScores:
        """Scores after beam `parents` of the last call was continued with `codes`."""
        ...


@runtime_checkable
class LooksAhead(NextCode, Protocol):
    """A model that can score two levels in one call."""

    def advance_two(
        self, parents_BK: Tensor, codes_BK: Tensor, owners_BM: Tensor, children_BM: Tensor
    ) -> tuple[CodeScores, CodeScores]:
        """As `advance`, and the scores [B, M, C] after each of M more codes, which continue the beams `owners`."""
        ...


@dataclass(frozen=True)
class Beams:
    """items: int64 [B, K] item numbers, best first, -1 where fewer were legal. scores: float32 [B, K], -inf there.

    overflow: bool [], of a search of fixed shape that looked ahead: whether more children were legal than it had room
    for. Then the rest means nothing.
    """

    items: Tensor
    scores: Tensor
    overflow: Tensor | None = None


def beam_search(
    model: NextCode,
    catalogue: Catalogue,
    beams: int,
    *,
    normalise: Normalise = "full",
    only: Filter | None = None,
    fixed: bool = False,
) -> Beams:
    """The best `beams` legal items per request by summed log-probability of their codes.

    fixed: no shape and no branch depends on scores, as a CUDA graph needs; a model that can look ahead always does.
    """
    step = model.start()
    batch, device = len(step.logits), step.logits.device
    prefix_BK = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    score_BK = torch.zeros(batch, 1, device=device)
    if not len(catalogue):
        empty = torch.full((batch, beams), -1, dtype=torch.int64, device=device)
        return Beams(empty, torch.full((batch, beams), -torch.inf, device=device))
    ahead: _Ahead | None = None
    overflow: Tensor | None = None
    for level, size in enumerate(catalogue.sizes):
        legal = catalogue.legal(catalogue.bounds(prefix_BK, level), only) & (score_BK > -torch.inf)[..., None]
        total = score_BK[..., None] + _log_probabilities(step, legal, normalise)
        score_BK, chosen = _best(total.masked_fill(~legal, -torch.inf).flatten(1), beams)
        parent_BK, code_BK = chosen // size, chosen % size
        prefix_BK = prefix_BK.gather(1, parent_BK) + code_BK * catalogue.stride(level)
        if ahead is not None:
            step = ahead.after(chosen)
            ahead = None
        elif level + 1 < len(catalogue.sizes):
            children = None
            if level + 3 == len(catalogue.sizes) and isinstance(model, LooksAhead):
                following = catalogue.legal(catalogue.bounds(prefix_BK, level + 1), only)
                following &= (score_BK > -torch.inf)[..., None]
                children = _few(following.flatten(1), LOOK_AHEAD * beams, fixed=fixed)
            if children is None or not isinstance(model, LooksAhead):
                step = model.advance(parent_BK, code_BK)
            else:
                places, slots, overflow = children
                width = catalogue.sizes[level + 1]
                step, scores = model.advance_two(parent_BK, code_BK, places // width, places % width)
                ahead = _Ahead(scores, slots)
    position = torch.searchsorted(catalogue.keys, prefix_BK).clamp(max=len(catalogue) - 1)
    items = catalogue.items[position].masked_fill(score_BK == -torch.inf, -1)
    return Beams(items, score_BK, overflow if fixed else None)


@dataclass(frozen=True)
class _Ahead:
    """Scores after every legal child of the beams, made before it is known which children survive.

    slots: int64 [B, K * C], the place of each child among the M that were run.
    """

    scores: CodeScores
    slots: Tensor

    def after(self, chosen: Tensor) -> CodeScores:
        """Scores after the chosen children [B, K]."""
        slot = self.slots.gather(1, chosen)
        logits, normaliser = self.scores.logits, self.scores.normaliser
        picked = logits.gather(1, slot[..., None].expand(-1, -1, logits.shape[-1]))
        return CodeScores(picked, None if normaliser is None else normaliser.gather(1, slot))


def _few(legal: Tensor, most: int, *, fixed: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """Places of the legal children [B, M] (padded with 0) in [B, K * C], the inverse, and whether M was too small.

    M is the number needed, and None comes back if that is 0 or over `most`; if fixed, M is `most`.
    """
    counted = legal.cumsum(1)
    needed = counted[:, -1].max()
    width = most if fixed else int(needed)
    if not 0 < width <= most:
        return None
    column = torch.where(legal & (counted <= width), counted - 1, width)  # all others go to a column that is cut off
    numbers = torch.arange(legal.shape[1], device=legal.device).expand_as(column)
    places = torch.zeros(len(legal), width + 1, dtype=torch.int64, device=legal.device).scatter(1, column, numbers)
    return places[:, :width], (counted - 1).clamp(0, width - 1), needed > width


def _best(total: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """The `beams` highest of [B, candidates], padded with dead beams (-inf, candidate 0) where there are fewer."""
    score, chosen = total.topk(min(beams, total.shape[1]), dim=1)
    missing = beams - score.shape[1]
    if missing:
        score = torch.nn.functional.pad(score, (0, missing), value=-torch.inf)
        chosen = torch.nn.functional.pad(chosen, (0, missing))
    return score, chosen.masked_fill(score == -torch.inf, 0)


def _log_probabilities(step: CodeScores, legal: Tensor, normalise: Normalise) -> Tensor:
    if normalise == "legal":
        normaliser = step.logits.masked_fill(~legal, -torch.inf).logsumexp(-1)
        normaliser = normaliser.masked_fill(normaliser == -torch.inf, 0.0)
    elif normalise == "codebook" or step.normaliser is None:
        normaliser = step.logits.logsumexp(-1)
    else:
        normaliser = step.normaliser
    return step.logits - normaliser[..., None]
