"""ReaRec: SASRec that thinks a few latent steps before it ranks.

Paper: Tang et al. 2025, "Think Before Recommend: Unleashing the Latent Reasoning Power for Sequential Recommendation". The
last state, plus an embedding of the step, goes in again as the next input; it sees the history and the steps before it. Two
ways to train the steps: an ensemble whose members are kept apart (ERL), or a temperature that falls from step to step with a
contrast against noised steps (PRL). Deviations: every place of a history is a target, each with steps of its own, in one
pass; the ensemble's mean includes the state before the first step; the softmax may run over sampled items.

Shapes: B histories, n items, D width, H heads, d head width, t steps taken, M targets.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, kl_div, log_softmax, normalize

from pauserec.baselines.item_loss import ItemLoss
from pauserec.baselines.item_model import MakeLoss
from pauserec.baselines.sasrec import Block, Sasrec
from pauserec.config import RearecConfig
from pauserec.training.batches import IGNORE

Past = tuple[Tensor, Tensor]
"""Keys and values [B, H, n, t, d] of a place's own steps, in one block."""


class Rearec(Sasrec):
    """See ItemModel."""

    def __init__(self, items: int, config: RearecConfig) -> None:
        super().__init__(items, config)
        self.config = config
        self.steps = nn.Embedding(config.steps, config.width)
        nn.init.normal_(self.steps.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """See ItemModel."""
        states = self.think(items)
        return torch.stack(states).mean(0) if self.config.objective == "erl" else states[-1]

    def think(self, items: Tensor) -> list[Tensor]:
        """States [B, n, D] before the first step and after each."""
        return self._steps(items, *self._read(items))

    def loss(self, items: Tensor, labels: Tensor, make: MakeLoss) -> Tensor:
        """See ItemModel."""
        wanted = labels != IGNORE
        loss = make(labels[wanted])
        read = self._read(items)
        states = [state[wanted] for state in self._steps(items, *read)]
        if self.config.objective == "erl":
            return self._ensemble(states, loss)
        noised = [state[wanted] for state in self._steps(items, *read, noise=self.config.noise_std)]
        return self._progressive(states, noised, loss)

    def _ensemble(self, states: list[Tensor], loss: ItemLoss) -> Tensor:
        heat = self.config.temperature
        chances = [log_softmax(loss.scores(state) / heat, -1) for state in states]
        apart = [
            kl_div(p.detach(), q, reduction="sum", log_target=True)
            for i, p in enumerate(chances)
            for j, q in enumerate(chances)
            if i != j
        ]
        return loss(torch.stack(states).mean(0), heat) - self.config.kl_weight * torch.stack(apart).mean()

    def _progressive(self, states: list[Tensor], noised: list[Tensor], loss: ItemLoss) -> Tensor:
        config, last = self.config, len(states) - 1
        total = loss(states[-1], config.temperature)
        for step, state in enumerate(states[:-1]):
            total = total + loss(state, config.temperature * config.temperature_factor ** (last - step)) / last
        own = torch.arange(len(states[-1]), device=states[-1].device)
        for clean, other in zip(states[1:], noised[1:], strict=True):
            alike = normalize(clean, dim=-1) @ normalize(other, dim=-1).T / config.temperature
            total = total + config.contrastive_weight * cross_entropy(alike, own, reduction="sum") / last
        return total

    def _read(self, items: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """SASRec's states [B, n, D], and each block's keys and values of the history [B, H, n, d]."""
        x_BnD, mask, kept = self.embed(items), self.mask(items), []
        for block in self._blocks():
            kept.append((block.by_head(block.key(x_BnD)), block.by_head(block.value(x_BnD))))
            x_BnD = block(x_BnD, mask)
        return self.norm(x_BnD), kept

    def _steps(
        self, items: Tensor, state: Tensor, kept: list[tuple[Tensor, Tensor]], noise: float = 0.0
    ) -> list[Tensor]:
        """The states before and after each step. noise: deviation of what is added to a step's input."""
        mask, states = self.mask(items), [state]
        pasts: list[Past | None] = [None] * len(kept)
        for step in self.steps.weight:
            x_BnD = states[-1] + step
            if noise:
                x_BnD = x_BnD + noise * torch.randn_like(x_BnD)
            for place, (block, history) in enumerate(zip(self._blocks(), kept, strict=True)):
                x_BnD, pasts[place] = _step(block, x_BnD, history, pasts[place], mask)
            states.append(self.norm(x_BnD))
        return states

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]


def _step(block: Block, x_BnD: Tensor, history: Past, past: Past | None, mask: Tensor) -> tuple[Tensor, Past]:
    """One step through one block: every place sees what it sees of the history, and its own steps up to this one."""
    q_BnD = block.before(x_BnD)
    q, k, v = (block.by_head(part) for part in (block.query(q_BnD), block.key(x_BnD), block.value(x_BnD)))
    keys, values = k[..., None, :], v[..., None, :]
    if past is not None:
        keys, values = torch.cat([past[0], keys], dim=3), torch.cat([past[1], values], dim=3)
    before = (q @ history[0].transpose(-1, -2)).masked_fill(~mask, -torch.inf)
    own = (q[..., None, :] * keys).sum(-1)
    weights = (torch.cat([before, own], dim=-1) * q.shape[-1] ** -0.5).softmax(-1)
    weights = dropout(weights, block.rate, block.training)
    n = before.shape[-1]
    seen = weights[..., :n] @ history[1] + (weights[..., n:, None] * values).sum(-2)
    return block.after(q_BnD, seen), (keys, values)
