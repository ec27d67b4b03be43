"""RQ-VAE: an autoencoder whose latent is residual-quantized; codes and reconstruction are learned together.

Paper: Rajput et al. 2023, TIGER (arXiv 2305.05065), Section 3.1: loss = ||x - x'||^2 + sum over levels of
||sg[r] - e||^2 + beta ||r - sg[e]||^2, beta = `quantizer.commitment`; codebooks start from k-means of the latents.
Deviations: gradients pass the quantizer by the rotation trick (Fifty et al. 2024, arXiv 2410.06424), not straight
through; k-means runs over all items' first latents, level by level, not over the first batch; at the start of an epoch
codes that no item uses move to residuals of random items (without it level 1 kept 8 of 256 codes), but not in the last
fifth of the epochs; AdamW with a warm-up and a cosine, layers of 512 and 256 to a latent of 64, where the paper has Adagrad
and 512, 256, 128 to 32.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pauserec.config import QuantizerConfig, TrainingSettings
from pauserec.records import FloatArray, Step
from pauserec.semantic_ids.assign import check_capacity
from pauserec.semantic_ids.codebooks import Codebooks, nearest
from pauserec.semantic_ids.embed import load_vectors
from pauserec.semantic_ids.quantize import write_ids
from pauserec.semantic_ids.rqkmeans import residual_kmeans
from pauserec.training.loop import fit

_SHORTEST = 1e-6  # shorter vectors count as this long where they divide


def rqvae(
    config: QuantizerConfig, vectors_step: Step, dataset_step: Step, *, out: Path, log: Callable[..., None]
) -> dict[str, Any]:
    """The step `semantic_ids` by RQ-VAE: trains it, then writes IDs, codebooks and quality report into `out`."""
    from pauserec.data.dataset import load_dataset

    vectors = load_vectors(vectors_step.path)
    if config.collisions == "reassign":
        check_capacity(len(vectors), config.codebook_sizes)
    codebooks, trained = train_rqvae(config, vectors, out=out, log=log)
    summary = write_ids(config, vectors, codebooks, load_dataset(dataset_step.path), out=out, log=log)
    return {**trained, **summary}


def train_rqvae(
    config: QuantizerConfig, vectors: FloatArray, *, out: Path, log: Callable[..., None]
) -> tuple[Codebooks, dict[str, Any]]:
    """Encoder and codebooks trained on vectors [n, width], and what training reports of itself."""
    # A generator of its own for the start values: the seed is the recipe's, and nobody else's draws change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = RqVae(config, vectors)
    model.start_codebooks(config)
    batches = ShuffledBatches(vectors, config)
    settings = TrainingSettings(
        name="rqvae",
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        save_every=1000,
        tracking=(),
        seed=config.seed,
    )
    # too small to share: several processes do the same
    trained = fit(model, batches, settings, out=out, log=log, together=False)
    return model.frozen(), trained


class RqVae(nn.Module):
    """Encoder, residual quantizer, decoder. B: items, W: width of a vector, D: latent width, L: levels."""

    def __init__(self, config: QuantizerConfig, vectors: FloatArray) -> None:
        super().__init__()
        self.commitment, self.seed, self.items = config.commitment, config.seed, vectors
        widths = (vectors.shape[1], *config.hidden, config.latent)
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.quantizer = ResidualQuantizer(config.codebook_sizes, config.latent)

    def forward(self, vectors: Tensor, restart: int | None = None) -> Tensor:
        """Loss summed over the items. vectors: [B, W]. restart: number of the epoch that begins, None within one."""
        if restart is not None:
            self.restart_unused(restart)
        z_BD = self.encoder(vectors)
        quantized_BD, codes_BL = self.quantizer(z_BD)
        loss = F.mse_loss(self.decoder(quantized_BD), vectors, reduction="sum")
        residual_BD = z_BD
        for level, book_KD in enumerate(self.books()):
            e_BD = F.embedding(codes_BL[:, level], book_KD)
            loss = loss + F.mse_loss(e_BD, residual_BD.detach(), reduction="sum")
            loss = loss + self.commitment * F.mse_loss(residual_BD, e_BD.detach(), reduction="sum")
            residual_BD = residual_BD - e_BD.detach()
        return loss

    def books(self) -> list[Tensor]:
        """Codebooks per level, [K, D]."""
        return list(self.quantizer.books)

    @torch.no_grad()
    def start_codebooks(self, config: QuantizerConfig) -> None:
        """Set the codebooks to residual k-means centroids of the untrained latents."""
        latents = self.frozen().latents(self.items)
        levels = residual_kmeans(latents, config.codebook_sizes, config.iterations, config.seed)
        for book_KD, centroids in zip(self.books(), levels, strict=True):
            book_KD[: len(centroids)] = torch.from_numpy(centroids)

    @torch.no_grad()
    def restart_unused(self, epoch: int) -> None:
        """Move codes that no item uses to residuals of random items.

        Depends on weights, seed and epoch alone, so that a resumed run does the same.
        """
        draw = np.random.default_rng((self.seed, epoch))
        residual = self.frozen().latents(self.items)
        for book_KD in self.books():
            used = nearest(residual, _array(book_KD))
            unused = np.flatnonzero(np.bincount(used, minlength=len(book_KD)) == 0)[: len(residual)]
            chosen = residual[draw.choice(len(residual), size=len(unused), replace=False)]
            book_KD[torch.from_numpy(unused)] = torch.from_numpy(chosen).to(book_KD)
            centroids = _array(book_KD)
            residual = residual - centroids[nearest(residual, centroids)]

    @torch.no_grad()
    def frozen(self) -> Codebooks:
        """Encoder and codebooks as arrays."""
        linear = [layer for layer in self.encoder if isinstance(layer, nn.Linear)]
        return Codebooks(
            tuple(_array(book) for book in self.books()),
            tuple((_array(layer.weight), _array(layer.bias)) for layer in linear),
        )


class ResidualQuantizer(nn.Module):
    """Each level takes the code nearest to what the levels before it left over (SoundStream, Algorithm 1).

    The codebooks are parameters, so that checkpoints hold them. They get their gradients from the loss alone: none passes
    through what the quantizer gives.
    """

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.books = nn.ParameterList(_uniform(size, width) for size in sizes)

    def forward(self, z_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the codes' vectors, [B, D], whose gradients go on to z_BD, and the codes, int64 [B, L]."""
        residual_BD, quantized_BD, codes = z_BD, torch.zeros_like(z_BD), []
        for book_KD in self.books:
            code_B = _nearest(residual_BD, book_KD)
            e_BD = F.embedding(code_B, book_KD).detach()
            # a vector of width 1 has no direction to turn
            passed_BD = rotate(residual_BD, e_BD) if z_BD.shape[1] > 1 else residual_BD + (e_BD - residual_BD).detach()
            residual_BD = residual_BD - passed_BD.detach()
            quantized_BD = quantized_BD + passed_BD
            codes.append(code_B)
        return quantized_BD, torch.stack(codes, dim=1)


def rotate(source_BD: Tensor, target_BD: Tensor) -> Tensor:
    """target_BD, as a rotation and scaling of source_BD that count as constants: the rotation trick.

    Fifty et al. 2024 (arXiv 2410.06424), Section 4.2: R = I - 2 w w^T + 2 q u^T with unit vectors u of the source, q of the
    target and w of u + q; the result is |target| / |source| R source.
    """
    with torch.no_grad():
        lengths = [vectors.norm(dim=1, keepdim=True) for vectors in (source_BD, target_BD)]
        source_length, target_length = (length.clamp(min=_SHORTEST) for length in lengths)
        u_BD, q_BD = source_BD / source_length, target_BD / target_length
        w_BD = F.normalize(u_BD + q_BD, dim=1, eps=_SHORTEST)
        scale_B1 = lengths[1] / source_length
    source_B1D = source_BD[:, None]
    reflected_B1D = source_B1D @ w_BD[:, :, None] @ w_BD[:, None]
    turned_B1D = source_B1D @ u_BD[:, :, None] @ q_BD[:, None]
    rotated: Tensor = (source_B1D - 2 * reflected_B1D + 2 * turned_B1D).squeeze(1) * scale_B1
    return rotated


class ShuffledBatches:
    """All batches of the run by number (fit.PlannedBatches): each epoch a fresh order, fixed by the seed."""

    def __init__(self, vectors: FloatArray, config: QuantizerConfig) -> None:
        self._vectors, self._size, self._seed = vectors, config.batch_size, config.seed
        self._per_epoch = -(-len(vectors) // config.batch_size)
        self.epoch_ends = [self._per_epoch * (epoch + 1) for epoch in range(config.epochs)]
        self.tokens = len(vectors) * config.epochs
        self._restarts = int(0.8 * config.epochs)
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.epoch_ends[-1]

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, batch = divmod(number, self._per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._vectors))
        rows = self._order[batch * self._size : (batch + 1) * self._size]
        restart = epoch if batch == 0 and 0 < epoch < self._restarts else None
        return {"vectors": self._vectors[rows], "restart": restart, "count": len(rows)}


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _uniform(size: int, width: int) -> nn.Parameter:
    bound = (6 / (size * width)) ** 0.5
    return nn.Parameter(torch.empty(size, width).uniform_(-bound, bound))


@torch.no_grad()
def _nearest(points_BD: Tensor, book_KD: Tensor) -> Tensor:
    squared_BK = points_BD.square().sum(dim=1, keepdim=True) + book_KD.square().sum(dim=1) - 2 * points_BD @ book_KD.T
    return squared_BK.argmin(dim=1)


def _array(tensor: Tensor) -> FloatArray:
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float32)
