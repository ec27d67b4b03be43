"""Attention over padded groups: causal or masked, by the fused kernel or by plain matrix products, whichever is faster.

On a CPU the fused kernel computes much of what a causal mask throws away, and in bfloat16 it is slower than matrix
products; so a prompt's queries are run in blocks that see only the keys before them.

Shapes: b documents, H heads, G key/value heads, L queries, n keys, D head width. q [b, H, L, D]; k, v [b, G, n, D].
"""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pauserec.llm.tree.rule import visible_in_trunk

BLOCK = 128
"""Queries run together on a CPU."""
LONG = 1024
"""From this length on the fused kernel skips masked blocks itself."""


KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""All but cuDNN's, which makes a plan for every new shape, half a second each: packed batches never repeat theirs."""


def _fused(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """PyTorch's fused kernel; which ones may be chosen is said for this call alone, not for the process."""
    if q.device.type != "cuda":
        return scaled_dot_product_attention(q, k, v, **options)
    with sdpa_kernel(KERNELS):
        return scaled_dot_product_attention(q, k, v, **options)


def lower(x: Tensor) -> Tensor:
    """In the precision of autocast, where that is on: rotary embedding leaves queries and keys in float32."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x
    dtype = torch.get_autocast_dtype(kind)
    return x if x.dtype == dtype else x.to(dtype)


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """Every query sees itself and what came before, at most `window` tokens back. The queries are those of the last keys."""
    length, before = q.shape[2], k.shape[2] - q.shape[2]
    plain, rounded = window is None or window >= k.shape[2], q.dtype == torch.bfloat16
    if plain and q.device.type == "cpu" and (rounded or (length < LONG and not torch.is_grad_enabled())):
        return torch.cat([_block(q, k, v, scale, start, stop) for start, stop in blocks(length)], dim=2)
    if plain and not before and not _by_products(q, k):
        if q.device.type == "cuda" and q.dtype == torch.float32:
            k, v = _repeated(q, k, v)
        return _fused(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return attend(q, k, v, scale, _causal_mask(before, before + length, None if plain else window, q.device))


def blocks(length: int) -> list[tuple[int, int]]:
    """Cuts of a prompt's queries, at most BLOCK each, of equal size: a short last one would be slow."""
    count = max(1, -(-length // BLOCK))
    return list(pairwise(length * number // count for number in range(count + 1)))


def _block(q: Tensor, k: Tensor, v: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """Causal attention of the queries from start to stop."""
    before = k.shape[2] - q.shape[2]
    start, stop = before + start, before + stop
    q, k, v = q[:, :, start - before : stop - before], k[:, :, :stop], v[:, :, :stop]
    seen = _causal_mask(start, stop, None, q.device)
    return _products(q, k, v, scale, seen[..., start:]) if q.dtype == torch.bfloat16 else attend(q, k, v, scale, seen)


@lru_cache(maxsize=64)
def _causal_mask(start: int, stop: int, window: int | None, device: torch.device) -> Tensor:
    """bool [1, 1, stop - start, stop]: what the queries from start to stop see."""
    with torch.inference_mode(False):  # kept from a call in inference mode, it must serve training too
        places = torch.arange(start, stop, device=device)[:, None]
        seen: Tensor = visible_in_trunk(places, torch.arange(stop, device=device), window)
        return seen[None, None]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    """mask: bool [b or 1, 1, L, n], true where a query may look; or what `prepared` made of it."""
    if mask.dtype != torch.bool:
        return _folded(q, k, v, scale, mask)
    if _by_products(q, k):
        return _products(q, k, v, scale, mask)
    if q.device.type == "cuda":
        return ungrouped(q, k, v, scale, mask)
    return _fused(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def ungrouped(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    """As `attend`, every head with a key head of its own: PyTorch's GPU kernel for masks and for float32 knows no groups,
    nor does its gradient; left to itself it would hold all scores in float32."""
    return _fused(q, *_repeated(q, k, v), attn_mask=mask, scale=scale)


def _repeated(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    share = q.shape[1] // k.shape[1]
    return k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)


def prepared(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """A mask that serves all layers of a pass: on a GPU, as PyTorch's kernel for masks takes it.

    That kernel knows no groups: a group's heads become more queries of its one key head. It adds the mask, in the
    queries' type, from rows that begin at multiples of 16 bytes. Left to itself it would make all that anew in every layer.
    """
    return fold(mask, q.shape[1] // k.shape[1], q.dtype) if q.device.type == "cuda" else mask


def fold(mask: Tensor, share: int, dtype: torch.dtype) -> Tensor:
    """bool [b, 1, L, n] -> dtype [b, 1, share * L, n], -inf where nobody may look."""
    batch, _, length, n = mask.shape
    wide = torch.zeros(batch, 1, share, length, -(-n // 8) * 8, dtype=dtype, device=mask.device)
    wide[..., :n].masked_fill_(~mask[:, :, None], -torch.inf)
    return wide.flatten(2, 3)[..., :n]


def _folded(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    batch, heads, length, width = q.shape
    q = q.reshape(batch, k.shape[1], -1, width)
    mask = mask.expand(batch, k.shape[1], -1, -1)
    return _fused(q, k, v, attn_mask=mask, scale=scale).reshape(batch, heads, length, width)


def _products(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    """As `attend`; mask [b or 1, 1, L, m] is of the last m keys, the ones before are all seen."""
    batch, heads, length, width = q.shape
    groups, n = k.shape[1], k.shape[2]
    with torch.autocast(q.device.type, enabled=False):
        scores = (q * scale).reshape(batch * groups, -1, width) @ k.reshape(batch * groups, n, width).transpose(1, 2)
        shaped = scores.view(batch, heads, length, n)
        shaped[..., n - mask.shape[-1] :].masked_fill_(~mask, -torch.inf)
        weights = shaped.softmax(-1).view(batch * groups, -1, n)
        return (weights @ v.reshape(batch * groups, n, width)).view(batch, heads, length, width)


def _by_products(q: Tensor, k: Tensor) -> bool:
    """Whether plain matrix products beat the fused kernel: on a CPU in bfloat16, unless there are few queries or many keys."""
    small = q.shape[2] * k.shape[2] <= 512 * 1024 and (q.shape[2] > 64 or q.requires_grad)
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and small
