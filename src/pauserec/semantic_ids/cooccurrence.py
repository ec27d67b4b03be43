"""Item vectors from which items people choose together: PPMI of windowed pairs, then a truncated SVD.

Method: Levy & Goldberg 2014, "Neural word embedding as implicit matrix factorization", Sections 3-5 (shifted PPMI with
shift 1; symmetric SVD, U sqrt(S)). Deviation: rows are scaled to length 1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pauserec.data.pairs import weighted_pairs
from pauserec.records import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy import sparse


def cooccurrence_vectors(sequences: Sequence[IntArray], items: int, *, dims: int, window: int, seed: int) -> FloatArray:
    """float32 [items, dims], rows of length 1; zeros for an item without neighbours. Pass training sequences only.

    window: two events of one user count as a pair when at most this many positions apart.
    """
    from sklearn.utils.extmath import randomized_svd

    vectors = np.zeros((items, dims), dtype=np.float32)
    ppmi = positive_pmi(pair_counts(sequences, items, window))
    rank = min(dims, items)
    if not ppmi.nnz:
        return vectors
    u, s, _ = randomized_svd(ppmi, n_components=rank, random_state=seed)
    scaled = u * np.sqrt(s)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    real = (lengths > 1e-6 * lengths.max()).ravel() & (np.diff(ppmi.indptr) > 0)
    vectors[real, :rank] = (scaled[real] / lengths[real]).astype(np.float32)
    return vectors


def pair_counts(sequences: Sequence[IntArray], items: int, window: int) -> "sparse.csr_matrix":
    """Symmetric counts of pairs of different items within the window: sparse [items, items]."""
    from scipy import sparse

    total = sparse.csr_matrix(weighted_pairs(sequences, items, np.ones(window)))
    return (total + total.T).tocsr()


def positive_pmi(counts: "sparse.csr_matrix") -> "sparse.csr_matrix":
    """max(0, log(P(i, j) / (P(i) P(j)))) of the pairs seen: sparse, shape kept."""
    from scipy import sparse

    pairs = counts.tocoo()
    marginal = np.asarray(counts.sum(axis=1)).ravel()
    values = np.log(pairs.data * marginal.sum() / (marginal[pairs.row] * marginal[pairs.col]))
    keep = values > 0
    return sparse.coo_matrix((values[keep], (pairs.row[keep], pairs.col[keep])), shape=counts.shape).tocsr()
