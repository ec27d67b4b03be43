"""GRU4Rec: a recurrent network over item embeddings.

Paper: Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks". Deviations: the losses are those
all trained baselines share; one table for input and output; whole histories instead of parallel sessions, so no state is
carried from one batch to the next.

Shapes: B histories, n items, D width.
"""

import torch
from torch import Tensor, nn

from pauserec.baselines.item_model import ItemModel
from pauserec.config import Gru4recConfig


class Gru4rec(ItemModel):
    """See ItemModel."""

    def __init__(self, items: int, config: Gru4recConfig) -> None:
        super().__init__(items, config)
        self.gru = nn.GRU(config.width, config.width, config.layers, batch_first=True)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, items: Tensor) -> Tensor:
        """See ItemModel. Padding is rolled to the end, where the recurrence has left the items behind."""
        padding_B1 = (items == 0).sum(1, keepdim=True)
        place = torch.arange(items.shape[1], device=items.device)
        states_BnD, _ = self.gru(_rolled(self.embed(items), place + padding_B1))
        states_BnD = _rolled(states_BnD, place - padding_B1) * (items > 0)[..., None]
        return self.out(self.dropout(states_BnD))  # type: ignore[no-any-return]


def _rolled(x_BnD: Tensor, place_Bn: Tensor) -> Tensor:
    return x_BnD.gather(1, (place_Bn % x_BnD.shape[1])[..., None].expand_as(x_BnD))
