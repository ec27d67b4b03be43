"""The frozen quantizer: an optional encoder and one codebook per level, enough to give any vector its codes.

Residual quantization (Zeghidour et al. 2021, SoundStream, arXiv 2107.03312, Algorithm 1): each level takes the code
whose centroid is nearest to what the levels before it left over. Plain NumPy: new items need neither torch nor faiss.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from pauserec.errors import RunError
from pauserec.records import FloatArray, IntArray
from pauserec.runs.files import write_atomically

CODEBOOKS = "codebooks.safetensors"
_POINTS_AT_ONCE = 16384


@dataclass(frozen=True)
class Codebooks:
    """levels: per level the centroids, float32 [k, d]; k may be below the level's size (the rest have no centroid yet).

    encoder: (weight [out, in], bias [out]) per linear layer, ReLU between; empty if vectors are quantized as they are.
    """

    levels: tuple[FloatArray, ...]
    encoder: tuple[tuple[FloatArray, FloatArray], ...] = ()

    @property
    def width(self) -> int:
        """Width of the item vectors these codebooks take."""
        return int((self.encoder[0][0] if self.encoder else self.levels[0]).shape[1])

    def latents(self, vectors: FloatArray) -> FloatArray:
        """What is quantized: float32 [n, d] from item vectors [n, width]."""
        hidden = np.asarray(vectors, dtype=np.float32)
        for layer, (weight, bias) in enumerate(self.encoder):
            if layer:
                hidden = np.maximum(hidden, 0)
            hidden = hidden @ weight.T + bias
        return hidden

    def encode(self, latents: FloatArray) -> tuple[IntArray, FloatArray]:
        """Nearest codes, int64 [n, levels], and the squared length of what is left over, float32 [n]."""
        codes = np.empty((len(latents), len(self.levels)), dtype=np.int64)
        errors = np.empty(len(latents), dtype=np.float32)
        for start in range(0, len(latents), _POINTS_AT_ONCE):
            rows = slice(start, start + _POINTS_AT_ONCE)
            residual = latents[rows]
            for level, centroids in enumerate(self.levels):
                codes[rows, level] = nearest(residual, centroids)
                residual = residual - centroids[codes[rows, level]]
            errors[rows] = np.square(residual).sum(axis=1)
        return codes, errors

    def save(self, folder: Path) -> None:
        """Write `codebooks.safetensors` into `folder`."""
        tensors = {f"level.{n}": np.ascontiguousarray(centroids) for n, centroids in enumerate(self.levels)}
        for n, (weight, bias) in enumerate(self.encoder):
            tensors |= {f"encoder.{n}.weight": np.ascontiguousarray(weight), f"encoder.{n}.bias": bias}
        write_atomically(folder / CODEBOOKS, save(tensors))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises RunError if the file is missing or damaged."""
        tensors = read_tensors(folder / CODEBOOKS)
        try:
            levels = sum(name.startswith("level.") for name in tensors)
            layers = sum(name.endswith(".weight") for name in tensors)
            book = cls(
                tuple(tensors[f"level.{n}"] for n in range(levels)),
                tuple((tensors[f"encoder.{n}.weight"], tensors[f"encoder.{n}.bias"]) for n in range(layers)),
            )
        except KeyError as error:
            raise _damaged(folder / CODEBOOKS, f"no tensor {error}") from None
        if not levels or len({centroids.shape[1:] for centroids in book.levels}) != 1:
            raise _damaged(folder / CODEBOOKS, "levels of different widths")
        return book


def nearest(points: FloatArray, centroids: FloatArray) -> IntArray:
    """Number of each point's nearest centroid: int64 [n] from [n, d] and [k, d]; the distances are never held together."""
    starts = range(0, max(1, len(points)), _POINTS_AT_ONCE)
    found = [squared_distances(points[start : start + _POINTS_AT_ONCE], centroids).argmin(axis=1) for start in starts]
    return np.concatenate(found).astype(np.int64)


def squared_distances(points: FloatArray, centroids: FloatArray) -> FloatArray:
    """Squared Euclidean distance up to a constant per point: float32 [n, k] from [n, d] and [k, d]."""
    distances: FloatArray = np.square(centroids).sum(axis=1) - 2 * (points @ centroids.T)
    return distances


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file. Raises RunError if it is missing, truncated or no such file."""
    if not path.is_file():
        raise RunError(f"{path} is missing: redo the step with --redo {path.parent.name}")
    try:
        tensors: dict[str, np.ndarray] = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, str(error)) from None
    return tensors


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path} is damaged ({why}): redo the step with --redo {path.parent.name}")
