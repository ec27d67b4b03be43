"""From prompts to items: one prefill, then constrained beam search whose beams are branches of the prompt.

A request costs the part of its prompt that no kept prefix covers, plus L - 1 passes over K tokens. `<|sid_begin|>` is part
of the prompt and the end token is never decoded, so L codes take L - 1 passes after prefill.

Shapes: B requests, K beams, D width, C codes of a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pauserec.decoding.beam import LOOK_AHEAD, Beams, CodeScores, Normalise, beam_search
from pauserec.decoding.catalogue import Catalogue, Filter
from pauserec.llm.cache import BranchPass, TreeCache
from pauserec.llm.model import LanguageModel
from pauserec.llm.prefill import prefill
from pauserec.llm.prefixes import MarkedPrompt, PrefixStore
from pauserec.llm.rationale import Rationales

HEAD_ROWS = 128
"""Hidden states whose logits over the whole vocabulary exist at once."""


def decode(
    model: LanguageModel,
    catalogue: Catalogue,
    prompts: Sequence[MarkedPrompt],
    beams: int,
    *,
    normalise: Normalise = "full",
    only: Filter | None = None,
    store: PrefixStore | None = None,
    rationales: Rationales | None = None,
) -> Beams:
    """The best `beams` items of the catalogue for each prompt. Prompts of different lengths share one batch.

    store: where beginnings of prompts are kept and found; without one, every prompt is run whole.
    rationales: for models that write before they name an item; the prompts then end where the text begins.
    """
    if not len(catalogue):
        shape, device = (len(prompts), beams), model.device
        return Beams(torch.full(shape, -1, device=device), torch.full(shape, -torch.inf, device=device))
    room = max(len(prompt.tokens) for prompt in prompts) + (rationales.room if rationales else 0)
    cache = TreeCache(len(prompts), room, beams * (len(catalogue.sizes) - 2 + LOOK_AHEAD), model.device)
    hidden = prefill(model, cache, prompts, store)
    if rationales is not None:
        hidden = rationales.write(model, cache, hidden).hidden
    scorer = _TreeScorer(model, cache, hidden, beams, full=normalise == "full")
    return beam_search(scorer, catalogue, beams, normalise=normalise, only=only)


class _TreeScorer:
    """Next-code scores over a prefilled cache: `advance` runs K tokens per request."""

    def __init__(self, model: LanguageModel, cache: TreeCache, hidden_BD: Tensor, beams: int, *, full: bool) -> None:
        self._model, self._cache, self._beams, self._full = model, cache, beams, full
        self._first = hidden_BD
        self._ancestors: list[Tensor] = []
        self._level = 0

    def start(self) -> CodeScores:
        return self._scores(self._first[:, None])

    def advance(self, parents_BK: Tensor, codes_BK: Tensor) -> CodeScores:
        tokens = self._descend(parents_BK, codes_BK)
        hidden = self._model.hidden(tokens.flatten(), BranchPass(self._cache, self._ancestors, self._beams))
        return self._scores(hidden.view(*codes_BK.shape, -1))

    def advance_two(
        self, parents_BK: Tensor, codes_BK: Tensor, owners_BM: Tensor, children_BM: Tensor
    ) -> tuple[CodeScores, CodeScores]:
        beams = self._descend(parents_BK, codes_BK)
        more = children_BM + self._model.vocabulary.code_offsets[self._level]
        branches = BranchPass(self._cache, self._ancestors, self._beams, owners_BM)
        tokens = torch.cat([beams, more], dim=1)
        hidden = self._model.hidden(tokens.flatten(), branches).view(*tokens.shape, -1)
        return self._scores(hidden[:, : self._beams]), self._scores(hidden[:, self._beams :])

    def _descend(self, parents_BK: Tensor, codes_BK: Tensor) -> Tensor:
        """Tokens of the chosen codes [B, K]; remembers whom they descend from."""
        self._ancestors = [step.gather(1, parents_BK) for step in self._ancestors]
        if self._level > 1:
            self._ancestors.append(parents_BK)
        return codes_BK + self._model.vocabulary.code_offsets[self._level - 1]

    def _scores(self, hidden_BKD: Tensor) -> CodeScores:
        rows = self._model.vocabulary.level_rows(self._level)
        self._level += 1
        if not self._full:
            return CodeScores(self._model.logits(hidden_BKD, rows).float())
        codes, normalisers = [], []
        for part in torch.split(hidden_BKD.flatten(0, 1), HEAD_ROWS):
            logits = self._model.logits(part).float()
            codes.append(logits[:, rows])
            normalisers.append(logits.logsumexp(-1))
        shape = hidden_BKD.shape[:2]
        return CodeScores(torch.cat(codes).view(*shape, -1), torch.cat(normalisers).view(shape))
