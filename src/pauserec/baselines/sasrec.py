"""SASRec: a causal transformer over item embeddings.

Paper: Kang & McAuley 2018, "Self-Attentive Sequential Recommendation", Section III. As there: learned positions counted
from the end of the window, attention on layer-normed queries, ReLU feed-forward layers, one embedding table for input and
output. Deviations: batches hold histories of similar length instead of padding all to the window; besides the paper's
binary cross-entropy a softmax over all or sampled items (Klenitskiy & Vasilev 2023; eSASRec, 2025); the table starts at
a normal of deviation 0.02, embeddings are not scaled by sqrt(width).

Shapes: B histories, n items, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pauserec.baselines.item_model import ItemModel, seen_from
from pauserec.config import SasrecConfig


class Sasrec(ItemModel):
    """See ItemModel."""

    def __init__(self, items: int, config: SasrecConfig) -> None:
        super().__init__(items, config, places=True)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, items: Tensor) -> Tensor:
        """See ItemModel."""
        x_BnD = self.embed(items)
        # a padded query sees itself, so that its softmax is none of nothing
        mask_B1nn = seen_from(items) | torch.eye(items.shape[1], dtype=torch.bool, device=items.device)
        for block in self.blocks:
            x_BnD = block(x_BnD, mask_B1nn)
        return self.norm(x_BnD)  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, config: SasrecConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        drop = nn.Dropout(config.dropout)
        self.feed = nn.Sequential(nn.Linear(width, width), drop, nn.ReLU(), nn.Linear(width, width), drop)
        self.rate = config.dropout

    def forward(self, x_BnD: Tensor, mask: Tensor) -> Tensor:
        q_BnD = self.before(x_BnD)
        rate = self.rate if self.training else 0.0
        parts = (self.query(q_BnD), self.key(x_BnD), self.value(x_BnD))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        x_BnD = self.between(q_BnD + self.out(seen.transpose(1, 2).flatten(2)))
        return x_BnD + self.feed(x_BnD)  # type: ignore[no-any-return]
