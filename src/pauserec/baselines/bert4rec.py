"""BERT4Rec: a transformer that sees both ways and fills in masked items.

Paper: Sun et al. 2019, "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer",
Sections 3.2-3.6. As there: items are masked at random in training, the next item is the one behind a mask at the end,
GELU, layer norms after each part, a dense layer before the output. Deviations: a history in which no item was drawn has
its last one masked (that stands for the paper's extra samples, which mask the last item only); the output has no bias
per item; losses as for the other trained baselines.

Shapes: B histories, n items, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pauserec.baselines.item_model import ItemModel, MakeLoss
from pauserec.config import Bert4recConfig
from pauserec.training.batches import IGNORE


class Bert4rec(ItemModel):
    """See ItemModel; the states are those of the places themselves, not of what follows."""

    def __init__(self, items: int, config: Bert4recConfig) -> None:
        super().__init__(items, config, places=config.history_length + 1, extra=1)
        self.mask, self.share = items + 1, config.mask_probability
        self.norm = nn.LayerNorm(config.width)
        width, rate = config.width, config.dropout
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, config.heads, 4 * width, rate, "gelu", batch_first=True)
            for _ in range(config.layers)
        )
        self.out = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))

    def forward(self, items: Tensor) -> Tensor:
        """See ItemModel."""
        x_BnD = self.norm(self.embed(items))
        for block in self.blocks:
            x_BnD = block(x_BnD, src_key_padding_mask=items == 0)
        return self.out(x_BnD)  # type: ignore[no-any-return]

    def loss(self, items: Tensor, labels: Tensor, make: MakeLoss) -> Tensor:
        """See ItemModel: of the whole history, some items are hidden, and those are the targets."""
        whole_Bn = pad(items, (0, 1))
        whole_Bn[:, -1] = labels[:, -1].clamp(min=-1) + 1  # a row without targets ends in padding
        real = whole_Bn > 0
        hidden = real & (torch.rand(whole_Bn.shape, device=items.device) < self.share)
        hidden[:, -1] |= real[:, -1] & ~hidden.any(1)
        wanted = hidden & (labels != IGNORE).any(1, keepdim=True)
        states = self(whole_Bn.masked_fill(hidden, self.mask))
        # one loss a next item, as every model has, however many are hidden: steps of equal size
        scale = (labels != IGNORE).sum() / wanted.sum().clamp(min=1)
        return make(whole_Bn[wanted] - 1)(states[wanted]) * scale

    def last(self, items: Tensor) -> Tensor:
        """See ItemModel."""
        return self(pad(items, (0, 1), value=self.mask))[:, -1]  # type: ignore[no-any-return]
