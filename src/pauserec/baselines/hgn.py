"""HGN: gates choose which features and which items of a short window speak.

Paper: Ma et al. 2019, "Hierarchical Gating Networks for Sequential Recommendation", eqs. 2-8: a feature gate, an item gate,
average pooling, and the plain sum of the window's items, scored against an output table of its own. Deviations: the
user's vector is the mean of rows that stand for the history's items, not a row per user, so that anybody can be ranked; the
output has no bias per item; losses as for the other trained baselines.

Shapes: B histories, n items, W items of a window, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pauserec.baselines.item_model import ItemModel
from pauserec.config import HgnConfig


class Hgn(ItemModel):
    """See ItemModel."""

    def __init__(self, items: int, config: HgnConfig) -> None:
        super().__init__(items, config)
        self.window = config.window
        self.tastes = nn.Embedding(items + 1, config.width, padding_idx=0)
        self.out = nn.Embedding(items, config.width)
        for table in (self.tastes, self.out):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.tastes.weight[0] = 0
        self.feature_gate = nn.Linear(config.width, config.width)
        self.feature_gate_of_user = nn.Linear(config.width, config.width, bias=False)
        self.item_gate = nn.Linear(config.width, 1, bias=False)
        self.item_gate_of_user = nn.Linear(config.width, config.window, bias=False)

    def forward(self, items: Tensor) -> Tensor:
        """See ItemModel."""
        count = (items > 0).cumsum(1).clamp(min=1)[..., None]
        user_BnD = self.dropout(self.tastes(items).cumsum(1) / count)
        window_BnWD = self._windows(self.embed(items))
        real_BnW = self._windows((items > 0)[..., None].float())[..., 0]
        gate_BnWD = self.feature_gate(window_BnWD) + self.feature_gate_of_user(user_BnD)[..., None, :]
        chosen_BnWD = window_BnWD * gate_BnWD.sigmoid()
        gate_BnW = (self.item_gate(chosen_BnWD)[..., 0] + self.item_gate_of_user(user_BnD)).sigmoid() * real_BnW
        pooled_BnD = (chosen_BnWD * gate_BnW[..., None]).sum(-2) / gate_BnW.sum(-1, keepdim=True).clamp(min=1e-6)
        return user_BnD + pooled_BnD + window_BnWD.sum(-2)  # type: ignore[no-any-return]

    def rows(self) -> Tensor:
        """The output rows [items, D]."""
        return self.out.weight

    def _windows(self, x_BnX: Tensor) -> Tensor:
        """Each place with those before it: [B, n, X] -> [B, n, W, X]."""
        return pad(x_BnX, (0, 0, self.window - 1, 0)).unfold(1, self.window, 1).transpose(2, 3)
