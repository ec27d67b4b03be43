"""A trained language model as a Recommender: prompt, one prefill, constrained beam search over the catalogue.

Requests of different lengths share a pass. The prompt is run once; beams are branches of it (llm/tree.py), so one request
costs its prompt plus L - 1 passes over K tokens. `<|sid_begin|>` is part of the prompt; the end token is never decoded.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pauserec.config import DecodingConfig, ModelConfig, PromptConfig
from pauserec.decoding.beam import CodeScores, beam_search
from pauserec.decoding.catalogue import Catalogue
from pauserec.llm.model import LanguageModel, best_device, use_bfloat16
from pauserec.llm.prompts import Format, Prompts
from pauserec.llm.tree import BranchPass, Document, TreePass
from pauserec.records import IntArray, Item, Ranking
from pauserec.semantic_ids.codes import SemanticIds


class LLMRecommender:
    """Ranks a catalogue with a language model. Also what validation uses during training (`autocast`)."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Prompts,
        ids: SemanticIds,
        decoding: DecodingConfig,
        *,
        autocast: bool = False,
    ) -> None:
        self.model, self.prompts, self.decoding = model, prompts, decoding
        self.catalogue = Catalogue.build(ids.codes, ids.sizes).to(model.device)
        self._autocast = autocast

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        ids: SemanticIds,
        items: Sequence[Item],
        *,
        model: ModelConfig,
        prompt: PromptConfig,
        decoding: DecodingConfig,
        form: Format,
    ) -> Self:
        """Load a checkpoint folder for inference, in bfloat16 where that is what `model.precision` means here."""
        device = best_device()
        language_model = LanguageModel.load(checkpoint, ids)
        if use_bfloat16(model, device):
            language_model.to(torch.bfloat16)
        language_model.to(device).eval().requires_grad_(False)
        prompts = Prompts(language_model.tokenizer, language_model.vocabulary, ids, items, prompt, form)
        return cls(language_model, prompts, ids, decoding)

    @torch.inference_mode()
    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool) -> Ranking:
        """See Recommender.top. k beyond `decoding.beams` widens the beam."""
        self.model.eval()
        beams = max(k, self.decoding.beams)
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        prompts = [self.prompts.prompt(history) for history in histories]
        for rows in _batches([len(prompt) for prompt in prompts], self.decoding.batch_tokens):
            seen = self.catalogue.filter([histories[row] for row in rows]) if drop_seen else None
            with self._precision():
                scorer = _TreeScorer(
                    self.model, [prompts[row] for row in rows], beams, self.decoding.normalise == "full"
                )
                found = beam_search(scorer, self.catalogue, beams, normalise=self.decoding.normalise, only=seen)
            items[rows], scores[rows] = found.items[:, :k].cpu().numpy(), found.scores[:, :k].float().cpu().numpy()
        return Ranking(items, scores)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, torch.bfloat16) if self._autocast else nullcontext()


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Rows sorted by length, cut so that a batch holds at most `tokens` prompt tokens (at least one row)."""
    batch: list[int] = []
    total = 0
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        if batch and total + lengths[row] > tokens:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += lengths[row]
    if batch:
        yield batch


class _TreeScorer:
    """Next-code scores from tree passes: `start` prefills the prompts, `advance` runs K tokens per request."""

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], beams: int, full: bool) -> None:
        self._model, self._prompts, self._beams, self._full = model, prompts, beams, full
        self._ancestors: list[Tensor] = []
        self._level = 0

    def start(self) -> CodeScores:
        tokens = torch.tensor([token for prompt in self._prompts for token in prompt], device=self._model.device)
        lengths = [len(prompt) for prompt in self._prompts]
        trunks = TreePass([Document(length) for length in lengths], keep=True, device=tokens.device)
        hidden = self._model.hidden(tokens, trunks)
        self._cache = trunks.cache
        last = torch.tensor(lengths, device=hidden.device).cumsum(0) - 1
        return self._scores(hidden[last][:, None])

    def advance(self, parents_BK: Tensor, codes_BK: Tensor) -> CodeScores:
        self._ancestors = [step.gather(1, parents_BK) for step in self._ancestors]
        if self._level > 1:
            self._ancestors.append(parents_BK)
        tokens = codes_BK + self._model.vocabulary.code_offsets[self._level - 1]
        assert self._cache is not None
        branches = BranchPass(self._cache, self._ancestors, self._beams)
        hidden = self._model.hidden(tokens.flatten(), branches)
        return self._scores(hidden.view(*codes_BK.shape, -1))

    def _scores(self, hidden_BKD: Tensor) -> CodeScores:
        rows = self._model.vocabulary.level_rows(self._level)
        self._level += 1
        if not self._full:
            return CodeScores(self._model.logits(hidden_BKD, rows).float())
        logits = self._model.logits(hidden_BKD).float()
        return CodeScores(logits[..., rows], logits.logsumexp(-1))
