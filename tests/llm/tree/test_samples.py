"""Samples: next-token labels, and many samples as one row."""

import numpy as np

from pauserec.llm.tree.samples import Branch, Sample, collate, labelled
from pauserec.training.batches import IGNORE


def test_labels_are_the_next_tokens_that_count() -> None:
    tokens, labels = labelled([1, 2, 3, 4, 5], [False, True, False, True, False])
    assert tokens.tolist() == [1, 2, 3]
    assert labels.tolist() == [2, IGNORE, 4]


def test_a_batch_is_one_flat_row() -> None:
    branch = Branch(1, np.array([7, 8]), np.array([IGNORE, 9]))
    sample = Sample(np.array([1, 2]), np.array([IGNORE, 3]), (branch,))
    row = collate([sample, sample])
    assert row.tokens.tolist() == [1, 2, 7, 8] * 2
    assert row.layout.document.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    batch = row.batch()
    assert batch["count"] == 4
    assert batch["places"].tolist() == [1, 3, 5, 7]
    assert batch["labels"].tolist() == [3, 9, 3, 9]
