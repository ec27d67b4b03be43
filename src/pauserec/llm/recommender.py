"""A trained language model as a Recommender: histories become prompts, llm/decode/decoder.py decodes batches of them."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

import numpy as np
import torch

from pauserec.config import DecodingConfig, Format, ModelConfig, PromptConfig
from pauserec.decoding.catalogue import Catalogue
from pauserec.llm.decode.decoder import decode
from pauserec.llm.decode.graphs import Graphs
from pauserec.llm.decode.prefixes import PrefixStore
from pauserec.llm.decode.rationale import Rationales
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.cache import branch_tokens
from pauserec.records import IntArray, Item, Offer, Ranking
from pauserec.runs.device import best_device, use_bfloat16
from pauserec.semantic_ids.codes import SemanticIds

FEW = 64
"""Histories of a call that may be run as CUDA graphs: those of a service. An evaluation's batches have too many shapes."""


BATCH_TOKENS, USERS_AT_ONCE = (8192, 65_536), (256, 4096)
"""On a CPU and on a GPU: prompt tokens decoded together, and users whom an evaluation hands over at once."""


class LLMRecommender:
    """Ranks a catalogue with a language model.

    training: the weights are float32 and change between calls, as in validation during training: products run in
    bfloat16 under autocast if `autocast`, and nothing is kept from one call to the next.
    cache_bytes: room for the prompts of users' histories, so that a known user's request runs only what is new.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Prompts,
        ids: SemanticIds,
        decoding: DecodingConfig,
        *,
        training: bool = False,
        autocast: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        self.model, self.prompts, self.decoding = model, prompts, decoding
        self.catalogue = Catalogue.build(ids.codes, ids.sizes).to(model.device)
        self._autocast = autocast
        gpu = model.device.type == "cuda"
        self._batch_tokens = decoding.batch_tokens or BATCH_TOKENS[gpu]
        self.at_once = USERS_AT_ONCE[gpu]
        self._graphs = Graphs(model) if gpu and not training else None
        self.store = None if training else PrefixStore(cache_bytes)

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
        cache_bytes: int = 0,
        compile: bool = False,
    ) -> Self:
        """Load a checkpoint folder for inference, in bfloat16 where that is what `model.precision` means here."""
        device = best_device()
        language_model = LanguageModel.load(checkpoint, ids)
        if use_bfloat16(model, device):
            language_model.in_precision(torch.bfloat16)
        language_model.to(device).prepare_inference(compile=compile)
        prompts = Prompts(language_model.tokenizer, language_model.vocabulary, ids, items, prompt, form)
        return cls(language_model, prompts, ids, decoding, cache_bytes=cache_bytes)

    @torch.inference_mode()
    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool, offer: Offer | None = None) -> Ranking:
        """See Recommender.top. k beyond `decoding.beams` widens the beam."""
        self.model.eval()
        beams = max(k, self.decoding.beams)
        items = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        prompts = [self.prompts.marked(history) for history in histories]
        store = PrefixStore(0) if self.store is None else self.store
        limits = (offer or Offer()).without(histories) if drop_seen else offer
        rationales = Rationales.of(self.prompts)
        written, branches = rationales.room if rationales else 0, branch_tokens(beams, len(self.catalogue.sizes))
        lengths = [max(len(prompt.tokens) + written, branches) for prompt in prompts]
        for rows in _batches(lengths, self._batch_tokens):
            with self._precision():
                found = decode(
                    self.model,
                    self.catalogue,
                    [prompts[row] for row in rows],
                    beams,
                    normalise=self.decoding.normalise,
                    only=self.catalogue.offered(limits, rows),
                    store=store,
                    rationales=rationales,
                    graphs=self._graphs if len(histories) <= FEW else None,
                )
            items[rows], scores[rows] = found.items[:, :k].cpu().numpy(), found.scores[:, :k].float().cpu().numpy()
        return Ranking(items, scores)

    @property
    def kernels(self) -> dict[str, str]:
        """What the numbers of this recommender were computed with: device, precision, linear layers."""
        dtype = torch.bfloat16 if self._autocast else self.model.table.dtype
        linear = "oneDNN, packed" if self.model.packed else "torch"
        return {"device": self.model.device.type, "precision": str(dtype).removeprefix("torch."), "linear": linear}

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, torch.bfloat16) if self._autocast else nullcontext()


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Rows sorted by length, cut so that the lengths of a batch add up to at most `tokens` (at least one row)."""
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
