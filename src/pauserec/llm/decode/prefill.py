"""Running prompts into a cache: whole, or what no kept beginning covers.

Shapes: B requests, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pauserec.llm.decode.prefixes import PrefixStore
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import MarkedPrompt
from pauserec.llm.tree.cache import ExtendPass, TreeCache


def prefill(
    model: LanguageModel, cache: TreeCache, prompts: Sequence[MarkedPrompt], store: PrefixStore | None
) -> Tensor:
    """Run what no kept prefix covers, fill `cache`, and give the hidden state after each prompt's last token [B, D]."""
    names = [prompt.names() for prompt in prompts] if store is not None else []
    if store is not None:
        cache.restore([store.find(row) for row in names])
    begin = list(cache.past)
    last = extend(model, cache, [prompt.tokens[start:] for prompt, start in zip(prompts, begin, strict=True)])
    if store is not None:
        keep_beginnings(store, cache, prompts, names, begin)
    return last


def keep_beginnings(
    store: PrefixStore,
    cache: TreeCache,
    prompts: Sequence[MarkedPrompt],
    names: Sequence[Sequence[bytes]],
    begin: Sequence[int],
) -> None:
    """Keep of a filled cache what `store` does not hold. names: each prompt's; begin: tokens of each that it held."""
    for row, prompt in enumerate(prompts):
        if not prompt.marks:
            continue
        if not store.has_template(names[row]):
            store.keep_template(names[row], cache.prefix(row, prompt.marks[0]))
        if store.capacity and begin[row] < prompt.marks[-1]:
            store.keep(names[row], cache.prefix(row, prompt.marks[-1]))


def extend(model: LanguageModel, cache: TreeCache, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Append tokens to every document's trunk; the hidden state after each one's last token [B, D].

    A document without new tokens gives the state of the one before it: not to be used.
    """
    lengths = [len(row) for row in tokens]
    flat = torch.tensor([token for row in tokens for token in row], device=model.device)
    return model.last_hidden(flat, ExtendPass(cache, lengths))
