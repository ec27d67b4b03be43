"""SASRec: a causal transformer over item embeddings.

Paper: Kang & McAuley 2018, "Self-Attentive Sequential Recommendation", Section III. As there: learned positions counted
from the end of the window, attention on layer-normed queries, ReLU feed-forward layers, one embedding table for input and
output. Deviations: batches hold histories of similar length instead of padding all to the window; the item drawn for
binary cross-entropy may stand in the history (the paper draws until it does not); besides that loss there is a softmax
over all or sampled items (Klenitskiy & Vasilev 2023; eSASRec, 2025); the table starts at a normal of deviation 0.02,
embeddings are not scaled by sqrt(width).

Shapes: B histories, n items, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pauserec.baselines.item_model import ItemModel, seen_from
from pauserec.config import RearecConfig, SasrecConfig


class Sasrec(ItemModel):
    """See ItemModel."""

    def __init__(self, items: int, config: SasrecConfig | RearecConfig) -> None:
        super().__init__(items, config, places=config.history_length)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, items: Tensor) -> Tensor:
        """See ItemModel."""
        x_BnD, mask_B1nn = self.embed(items), self.mask(items)
        for block in self.blocks:
            x_BnD = block(x_BnD, mask_B1nn)
        return self.norm(x_BnD)  # type: ignore[no-any-return]

    def mask(self, items: Tensor) -> Tensor:
        """What a place sees, bool [B, 1, n, n]. A padded one sees itself, so that its softmax is none of nothing."""
        return seen_from(items) | torch.eye(items.shape[1], dtype=torch.bool, device=items.device)


class Block(nn.Module):
    """Attention, then the feed-forward layers."""

    def __init__(self, config: SasrecConfig | RearecConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        drop = nn.Dropout(config.dropout)
        self.feed = nn.Sequential(nn.Linear(width, width), drop, nn.ReLU(), nn.Linear(width, width), drop)
        self.rate = config.dropout

    def forward(self, x_BnD: Tensor, mask: Tensor) -> Tensor:
        """mask: bool [B, 1, n, n], what each place sees."""
        q_BnD = self.before(x_BnD)
        rate = self.rate if self.training else 0.0
        q, k, v = (self.by_head(part) for part in (self.query(q_BnD), self.key(x_BnD), self.value(x_BnD)))
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        return self.after(q_BnD, seen)

    def by_head(self, x_BnD: Tensor) -> Tensor:
        """[B, n, D] -> [B, H, n, D / H]."""
        return x_BnD.view(*x_BnD.shape[:2], self.heads, -1).transpose(1, 2)

    def after(self, q_BnD: Tensor, seen_BHnd: Tensor) -> Tensor:
        """What follows attention, of the normed input and what was seen."""
        x_BnD = self.between(q_BnD + self.out(seen_BHnd.transpose(1, 2).flatten(2)))
        return x_BnD + self.feed(x_BnD)  # type: ignore[no-any-return]
