"""A prefilled cache seen as a scorer of codes: each call runs the tokens of one level, as branches of the prompts.

Shapes: B requests, K beams, M children, D width, C codes of a level.
"""

import torch
from torch import Tensor

from pauserec.decoding.beam import CodeScores
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.cache import BranchPass, TreeCache
from pauserec.training.losses import LOGITS_ON_GPU

HEAD_ROWS = 128
"""Hidden states whose logits over the whole vocabulary exist at once on a CPU."""


class LevelScorer:
    """Scores of the next code, level by level: `advance` runs K tokens per request.

    hidden_BD: states after the prompts. full: the scores come with their log-sum-exp over the whole vocabulary.
    """

    def __init__(self, model: LanguageModel, cache: TreeCache, hidden_BD: Tensor, beams: int, *, full: bool) -> None:
        self._model, self._cache, self._beams, self._full = model, cache, beams, full
        self._first = hidden_BD
        self._ancestors: list[Tensor] = []
        self._level = 0

    def start(self) -> CodeScores:
        """See NextCode.start."""
        return self._scores(self._first[:, None])

    def advance(self, parents_BK: Tensor, codes_BK: Tensor) -> CodeScores:
        """See NextCode.advance."""
        tokens = self._descend(parents_BK, codes_BK)
        hidden = self._model.hidden(tokens.flatten(), BranchPass(self._cache, self._ancestors, self._beams))
        return self._scores(hidden.view(*codes_BK.shape, -1))

    def _descend(self, parents_BK: Tensor, codes_BK: Tensor) -> Tensor:
        """Tokens of the chosen codes [B, K]; remembers whom they descend from."""
        self._ancestors = [step.gather(1, parents_BK) for step in self._ancestors]
        if self._level > 1:
            self._ancestors.append(parents_BK)
        return codes_BK + self._model.vocabulary.code_offsets[self._level - 1]

    def _scores(self, hidden_BKD: Tensor) -> CodeScores:
        rows = self._model.vocabulary.levels[self._level]
        self._level += 1
        if not self._full:
            return CodeScores(self._model.exact_logits(hidden_BKD, rows))
        codes, normalisers = [], []
        used = self._model.vocabulary.used
        at_once = HEAD_ROWS if hidden_BKD.device.type == "cpu" else max(HEAD_ROWS, LOGITS_ON_GPU // used)
        for part in torch.split(hidden_BKD.flatten(0, 1), at_once):
            logits = self._model.logits(part)
            exact = logits.dtype == torch.float32
            codes.append(logits[:, rows] if exact else self._model.exact_logits(part, rows))
            normalisers.append(logits.float().logsumexp(-1))
        shape = hidden_BKD.shape[:2]
        return CodeScores(torch.cat(codes).view(*shape, -1), torch.cat(normalisers).view(shape))


class TwoLevelScorer(LevelScorer):
    """One that can also score the beams and their children in one call."""

    def advance_two(
        self, parents_BK: Tensor, codes_BK: Tensor, owners_BM: Tensor, children_BM: Tensor
    ) -> tuple[CodeScores, CodeScores]:
        """See LooksAhead.advance_two."""
        beams = self._descend(parents_BK, codes_BK)
        more = children_BM + self._model.vocabulary.code_offsets[self._level]
        branches = BranchPass(self._cache, self._ancestors, self._beams, owners_BM)
        tokens = torch.cat([beams, more], dim=1)
        hidden = self._model.hidden(tokens.flatten(), branches).view(*tokens.shape, -1)
        return self._scores(hidden[:, : self._beams]), self._scores(hidden[:, self._beams :])
