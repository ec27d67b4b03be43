"""RQ-KMeans: residual quantization with k-means codebooks, one level after the other.

Method: Luo et al. 2024, QARM (arXiv 2411.11739); also the tokenizer of OneRec. Deviations: plain k-means (faiss),
k-means++ start, not balanced; IDs are made unique afterwards (assign.py). Points enter k-means once, with their
multiplicity as weight; a level with no more distinct points than codes takes the points as its centroids.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pauserec.config import QuantizerConfig
from pauserec.records import FloatArray, Step
from pauserec.runs.progress import track
from pauserec.semantic_ids.assign import check_capacity
from pauserec.semantic_ids.codebooks import Codebooks, nearest
from pauserec.semantic_ids.embed import load_vectors
from pauserec.semantic_ids.quantize import write_ids

_MANY = 20_000  # vectors whose k-means takes seconds
_SAMPLE = 65536  # k-means trains on at most this many points, or 256 per code if that is more


def rqkmeans(
    config: QuantizerConfig, vectors_step: Step, dataset_step: Step, *, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    """The step `semantic_ids` by residual k-means: writes IDs, codebooks and quality report into `out`."""
    from pauserec.data.dataset import load_dataset

    vectors = load_vectors(vectors_step.path)
    if config.collisions == "reassign":
        check_capacity(len(vectors), config.codebook_sizes)
    dataset = load_dataset(dataset_step.path)
    if len(config.codebook_sizes) == 1:
        distinct, place = np.unique(vectors, axis=0, return_inverse=True)
        if len(distinct) <= config.codebook_sizes[0]:  # every vector is a centroid: nothing is to be searched for
            known = place.reshape(-1, 1).astype(np.int64), np.zeros(len(vectors), dtype=np.float32)
            return write_ids(config, vectors, Codebooks((distinct,)), dataset, known, out=out, log=log)
    codebooks = Codebooks(residual_kmeans(vectors, config.codebook_sizes, config.iterations, config.seed))
    return write_ids(config, vectors, codebooks, dataset, out=out, log=log)


def residual_kmeans(vectors: FloatArray, sizes: tuple[int, ...], iterations: int, seed: int) -> tuple[FloatArray, ...]:
    """Centroids per level, float32 [k, d] with k <= size, from vectors [n, d]; the same for the same seed."""
    residual = vectors
    levels = []
    for level, size in track(list(enumerate(sizes)), "k-means, level by level", shown=len(vectors) >= _MANY):
        centroids = _kmeans(residual, size, iterations, seed + level)
        residual = residual - centroids[nearest(residual, centroids)]
        levels.append(centroids)
    return tuple(levels)


def _kmeans(points: FloatArray, size: int, iterations: int, seed: int) -> FloatArray:
    distinct, weights = np.unique(points, axis=0, return_counts=True)
    if len(distinct) <= size:
        return distinct
    faiss = _faiss()
    trainer = faiss.Kmeans(
        points.shape[1],
        size,
        niter=iterations,
        seed=seed,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        min_points_per_centroid=1,  # fewer than 39 points per code is no cause for a warning here
        max_points_per_centroid=max(256, _SAMPLE // size),
    )
    # One thread: the result cannot depend on the number of cores, and at this size threads cost more than they give.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        trainer.train(np.ascontiguousarray(distinct), weights=weights.astype(np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.array(trainer.centroids, dtype=np.float32)


def _faiss() -> Any:
    """The module faiss, with matrix kernels that suit this processor.

    The OpenBLAS in its wheel is older than many processors and takes those it does not know for one without AVX, where
    k-means is four times slower. So it is told what NumPy finds, unless the environment names a kernel already.
    """
    simd = np.show_config("dicts")["SIMD Extensions"]
    known = {*simd["baseline"], *simd["found"]}
    kernels = {"SkylakeX": {"X86_V4", "AVX512_SKX"}, "Haswell": {"X86_V3", "AVX2"}}  # NumPy's names, new and old
    core = next((core for core, names in kernels.items() if names & known), None)
    setting = "OPENBLAS_CORETYPE"
    told = core is not None and setting not in os.environ
    if told:
        os.environ[setting] = str(core)
    try:
        import faiss
    finally:
        if told:
            del os.environ[setting]
    return faiss
