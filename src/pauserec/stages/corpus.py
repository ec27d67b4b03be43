"""Training samples from running text, for continual pretraining and pause pretraining."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pauserec.config import TrainingSettings
from pauserec.errors import RecipeError
from pauserec.llm.prompts import Corpus
from pauserec.llm.tree.samples import Sample, collate, labelled
from pauserec.records import Dataset, IntArray
from pauserec.training.batches import Batches

Kind = Literal["text_first", "sid_first", "history"]


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """A stretch of one user's history, or one item: its text, then its ID, or the other way round."""

    number: int
    """Place in the corpus."""
    kind: Kind
    items: IntArray


def corpus_documents(dataset: Dataset, corpus: Corpus, length: int | None, batch_tokens: int) -> list[CorpusDocument]:
    """Every document: training histories in stretches of at most `length` items that fit a batch, or every item both ways."""
    found: list[tuple[Kind, IntArray]]
    if length is None:
        orders: tuple[Kind, ...] = ("text_first", "sid_first")
        found = [(order, np.array([item])) for item in range(len(dataset.items)) for order in orders]
    else:
        found = [
            ("history", part)
            for items in dataset.training_sequences()
            for part in corpus.stretches(items, length, batch_tokens)
        ]
    return [CorpusDocument(number, kind, items) for number, (kind, items) in enumerate(found)]


def document_tokens(corpus: Corpus, document: CorpusDocument) -> list[int]:
    """A document as token ids."""
    if document.kind == "history":
        return corpus.history(document.items)
    return corpus.item(int(document.items[0]), text_first=document.kind == "text_first")


def corpus_batches(
    stage: TrainingSettings,
    documents: Sequence[CorpusDocument],
    tokens: Callable[[CorpusDocument], list[int]],
    *,
    positions: int,
    is_target: Callable[[int], bool] = lambda token: True,
) -> Batches[CorpusDocument]:
    """Batches of documents, each predicting every next token for which `is_target` holds.

    Raises RecipeError where a document has more tokens than the model's `positions`.
    """
    lengths = {document.number: len(tokens(document)) - 1 for document in documents}
    longest = max(lengths.values(), default=0)
    if longest > positions:
        raise RecipeError(
            f"stage {stage.name!r}: one item's running text takes {longest} tokens, but the model is made for {positions}: "
            "choose another model, or shorten titles (data.max_title_chars)"
        )

    def build(document: CorpusDocument) -> Sample:
        ids = tokens(document)
        inputs, labels = labelled(ids, [is_target(token) for token in ids])
        return Sample(inputs, labels)

    return Batches(
        lambda epoch, rng: documents,
        lambda document: lengths[document.number],
        lambda chosen: collate([build(document) for document in chosen]).batch(),
        epochs=stage.epochs,
        batch_tokens=stage.batch_size,
        seed=stage.seed,
    )
