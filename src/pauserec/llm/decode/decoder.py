"""From prompts to items: one prefill, then constrained beam search whose beams are branches of the prompt.

A request costs the part of its prompt that no kept prefix covers, plus L - 1 passes over K tokens. `<|sid_begin|>` is part
of the prompt and the end token is never decoded, so L codes take L - 1 passes after prefill.

Shapes: B requests, K beams.
"""

from collections.abc import Sequence

import torch

from pauserec.decoding.beam import Beams, Normalise, beam_search
from pauserec.decoding.catalogue import Catalogue, Filter
from pauserec.llm.decode.graphs import Graphs
from pauserec.llm.decode.prefill import prefill
from pauserec.llm.decode.prefixes import PrefixStore
from pauserec.llm.decode.rationale import Rationales
from pauserec.llm.decode.scorer import TwoLevelScorer
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import MarkedPrompt
from pauserec.llm.tree.cache import TreeCache, branch_tokens


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
    graphs: Graphs | None = None,
) -> Beams:
    """The best `beams` items of the catalogue for each prompt. Prompts of different lengths share one batch.

    store: where beginnings of prompts are kept and found; without one, every prompt is run whole.
    rationales: for models that write before they name an item; the prompts then end where the text begins.
    graphs: requests captured on the GPU; small batches are run by them, unless text is written.
    """
    if not len(catalogue):
        shape, device = (len(prompts), beams), model.device
        return Beams(torch.full(shape, -1, device=device), torch.full(shape, -torch.inf, device=device))
    if graphs is not None and rationales is None and graphs.fit(prompts):
        found = graphs.decode(catalogue, prompts, beams, normalise=normalise, only=only, store=store)
        if found is not None:
            return found
    room = max(len(prompt.tokens) for prompt in prompts) + (rationales.room if rationales else 0)
    cache = TreeCache(len(prompts), room, branch_tokens(beams, len(catalogue.sizes)), model.device)
    hidden = prefill(model, cache, prompts, store)
    if rationales is not None:
        hidden = rationales.write(model, cache, hidden).hidden
    scorer = TwoLevelScorer(model, cache, hidden, beams, full=normalise == "full")
    return beam_search(scorer, catalogue, beams, normalise=normalise, only=only)
