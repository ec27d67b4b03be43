"""Attention over padded groups: causal or masked, by the fused kernel or by plain matrix products, whichever is faster.

Shapes: b documents, H heads, G key/value heads, L queries, n keys, D head width. q [b, H, L, D]; k, v [b, G, n, D].
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def lower(x: Tensor) -> Tensor:
    """In the precision of autocast, where that is on: rotary embedding leaves queries and keys in float32."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """Every query sees itself and what came before, at most `window` tokens back."""
    length = q.shape[2]
    plain = window is None or window >= length
    if plain and not _by_products(q, k):
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    place = torch.arange(length, device=q.device)
    distance = place[:, None] - place
    mask = distance >= 0 if plain or window is None else (distance >= 0) & (distance < window)
    return attend(q, k, v, scale, mask[None, None])


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    """mask: bool [b or 1, 1, L, n], true where a query may look."""
    if not _by_products(q, k):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    batch, heads, length, width = q.shape
    groups, n = k.shape[1], k.shape[2]
    with torch.autocast(q.device.type, enabled=False):
        scores = (q * scale).reshape(batch * groups, -1, width) @ k.reshape(batch * groups, n, width).transpose(1, 2)
        shaped = scores.view(batch, heads, length, n).masked_fill(~mask, -torch.inf)
        weights = shaped.softmax(-1).view(batch * groups, -1, n)
        return (weights @ v.reshape(batch * groups, n, width)).view(batch, heads, length, width)


def _by_products(q: Tensor, k: Tensor) -> bool:
    """Whether plain matrix products beat the fused kernel: on a CPU its backward pass takes twice as long in bfloat16."""
    small = q.shape[2] * k.shape[2] <= 512 * 1024
    return (
        q.device.type == "cpu" and q.dtype == torch.bfloat16 and small and torch.is_grad_enabled() and q.requires_grad
    )
