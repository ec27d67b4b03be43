"""HSTU: gated attention without a softmax.

Paper: Zhai et al. 2024, "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", eqs. 1-3: U, V, Q, K = SiLU(f1(norm(x))); attention weights SiLU(QK^T + position bias), divided by the
window's length; output f2(norm(AV) * U). Deviations: the relative bias knows positions only, not times; the output table
is shared with the input.

Shapes: B histories, n items, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from pauserec.baselines.item_model import ItemModel, seen_from
from pauserec.config import HstuConfig


class Hstu(ItemModel):
    """See ItemModel."""

    def __init__(self, items: int, config: HstuConfig) -> None:
        super().__init__(items, config, places=config.history_length)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, items: Tensor) -> Tensor:
        """See ItemModel."""
        x_BnD, seen_B1nn = self.embed(items), seen_from(items)
        for block in self.blocks:
            x_BnD = block(x_BnD, seen_B1nn)
        return self.norm(x_BnD)  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, config: HstuConfig) -> None:
        super().__init__()
        width, self.heads, self.length = config.width, config.heads, config.history_length
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 4 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(config.heads, config.history_length))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BnD: Tensor, seen_B1nn: Tensor) -> Tensor:
        n = x_BnD.shape[1]
        gate_BnD, *parts = silu(self.into(self.before(x_BnD))).chunk(4, dim=-1)
        v, q, k = (part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)
        place = torch.arange(n, device=x_BnD.device)
        bias_Hnn = self.bias[:, (place[:, None] - place).clamp(min=0)]
        weights_BHnn = silu(q @ k.transpose(-1, -2) + bias_Hnn) / self.length * seen_B1nn
        mixed_BnD = (weights_BHnn @ v).transpose(1, 2).flatten(2)
        return x_BnD + self.out(self.dropout(self.after(mixed_BnD) * gate_BnD))  # type: ignore[no-any-return]
