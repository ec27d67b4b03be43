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
from vector_quantize_pytorch import ResidualVQ

from pauserec.config import QuantizerConfig, TrainingSettings
from pauserec.records import FloatArray, Step
from pauserec.semantic_ids.assign import check_capacity
from pauserec.semantic_ids.codebooks import Codebooks, nearest
from pauserec.semantic_ids.embed import load_vectors
from pauserec.semantic_ids.quantize import write_ids
from pauserec.semantic_ids.rqkmeans import residual_kmeans
from pauserec.training.loop import fit


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
        # Codebooks are parameters, so that gradients train them as in the paper and checkpoints hold them. The loss is
        # written out below: the library's weighs both of its halves alike.
        self.quantizer = ResidualVQ(
            dim=config.latent,
            codebook_size=tuple(config.codebook_sizes),
            learnable_codebook=True,
            ema_update=False,
            commitment_weight=0.0,
            rotation_trick=config.latent > 1,
        )

    def forward(self, vectors: Tensor, restart: int | None = None) -> Tensor:
        """Loss summed over the items. vectors: [B, W]. restart: number of the epoch that begins, None within one."""
        if restart is not None:
            self.restart_unused(restart)
        z_BD = self.encoder(vectors)
        quantized_BD, codes_BL, _ = self.quantizer(z_BD)
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
        return [layer._codebook.embed[0] for layer in self.quantizer.layers]

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


def _array(tensor: Tensor) -> FloatArray:
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float32)
