"""Training samples from running text, for continual pretraining and pause pretraining."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from pauserec.data.batches import Batches, Sample, labelled
from pauserec.llm.prompts import Corpus
from pauserec.records import Dataset, IntArray

Document = tuple[str, int, IntArray]
"""("text" | "sid", item, nothing) for one item in one direction, or ("history", user, items)."""
NOTHING = np.zeros(0, dtype=np.int64)


def corpus_documents(dataset: Dataset, corpus: Literal["histories", "items"], length: int) -> list[Document]:
    """Every document of the corpus. Histories are training events only, cut into stretches of `length` items."""
    if corpus == "items":
        return [(first, item, NOTHING) for item in range(len(dataset.items)) for first in ("text", "sid")]
    return [
        ("history", user, items[start : start + length])
        for user, items in enumerate(dataset.training_sequences())
        for start in range(0, len(items), length)
    ]


def document_tokens(corpus: Corpus, document: Document) -> list[int]:
    """A document as token ids."""
    kind, number, items = document
    return corpus.history(items) if kind == "history" else corpus.item(number, text_first=kind == "text")


def corpus_batches(
    documents: Sequence[Document],
    tokens: Callable[[Document], list[int]],
    *,
    epochs: float,
    batch_tokens: int,
    seed: int,
    is_target: Callable[[int], bool] = lambda token: True,
) -> Batches[Document]:
    """Batches of documents, each predicting every next token for which `is_target` holds."""
    lengths = {id(document): len(tokens(document)) - 1 for document in documents}

    def build(document: Document) -> Sample:
        ids = tokens(document)
        inputs, labels = labelled(ids, [is_target(token) for token in ids])
        return Sample(inputs, labels)

    return Batches(
        lambda epoch, rng: documents,
        lambda document: lengths[id(document)],
        build,
        epochs=epochs,
        batch_tokens=batch_tokens,
        seed=seed,
    )
