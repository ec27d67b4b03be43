"""Item vectors from which items people choose together: PPMI of windowed pairs, then a truncated SVD.

Method: Levy & Goldberg 2014, "Neural word embedding as implicit matrix factorization", Sections 3-5 (shifted PPMI with
shift 1; symmetric SVD, U sqrt(S)). Deviation: rows are scaled to length 1. The SVD is randomized: Halko, Martinsson & Tropp
2011, "Finding structure with randomness" (arXiv 0909.4061), Algorithms 4.4 and 5.1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pauserec.data.pairs import weighted_pairs
from pauserec.records import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy import sparse

_OVERSAMPLES, _POWER_ITERATIONS = 10, 7


def cooccurrence_vectors(sequences: Sequence[IntArray], items: int, *, dims: int, window: int, seed: int) -> FloatArray:
    """float32 [items, dims], rows of length 1; zeros for an item without neighbours. Pass training sequences only.

    window: two events of one user count as a pair when at most this many positions apart.
    """
    vectors = np.zeros((items, dims), dtype=np.float32)
    ppmi = positive_pmi(pair_counts(sequences, items, window))
    rank = min(dims, items)
    if not ppmi.nnz:
        return vectors
    u, s = truncated_svd(ppmi, rank, seed)
    scaled = u * np.sqrt(s)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    real = (lengths > 1e-6 * lengths.max()).ravel() & (np.diff(ppmi.indptr) > 0)
    vectors[real, :rank] = (scaled[real] / lengths[real]).astype(np.float32)
    return vectors


def truncated_svd(matrix: "sparse.csr_matrix", rank: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Left singular vectors, float64 [n, rank], and the largest singular values, float64 [rank], of a sparse [n, m].

    The same for the same seed. The largest entry of each vector is positive, since a vector and its negative serve alike.
    rank: at most min(n, m).
    """
    # RandomState, whose stream no version of NumPy changes
    start = np.random.RandomState(seed).normal(size=(matrix.shape[1], rank + _OVERSAMPLES))
    basis, _ = np.linalg.qr(matrix @ start)
    for _ in range(_POWER_ITERATIONS):  # each makes what lies outside the wanted subspace smaller
        basis, _ = np.linalg.qr(matrix.T @ basis)
        basis, _ = np.linalg.qr(matrix @ basis)
    within, s, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    u = basis @ within[:, :rank]
    largest = u[np.abs(u).argmax(axis=0), np.arange(rank)]
    return u * np.where(largest < 0, -1.0, 1.0), s[:rank]


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
