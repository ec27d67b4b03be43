"""The most common decoder layer (Llama, Qwen3) for training: two compiled functions around its attention.

The weights stay the Hugging Face model's own parameters, so that optimizer, checkpoints and saving know nothing of this.
What transformers spreads over some eighty kernels forward and two hundred backward is matrix products and what inductor
fuses between them. Each function is compiled once and serves all layers, as long as rows have one length
(stages/rows.py). Everything else trains through transformers' own code; tests hold both to the same gradients.

Shapes: N tokens of a row, D width, H heads, G key/value heads, d head width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, rms_norm, silu
from torch.utils.checkpoint import checkpoint

from pauserec.llm.layers.fused import can_fuse, rotation
from pauserec.llm.tree.passes import Pass


class Projection(NamedTuple):
    """A linear layer's weight [out, in] and bias [out]."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: nn.Linear) -> "Projection":
        """The parameters of a layer."""
        return cls(layer.weight, layer.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, in] -> [N, out]."""
        return linear(x, self.weight, self.bias)


class Before(NamedTuple):
    """The weights of a layer's first half. q_norm, k_norm: where heads are normed (Qwen3)."""

    norm: Tensor
    q: Projection
    k: Projection
    v: Projection
    q_norm: Tensor | None
    k_norm: Tensor | None


class After(NamedTuple):
    """The weights of a layer's second half."""

    out: Projection
    norm: Tensor
    gate: Projection
    up: Projection
    down: Projection


def before(weights: Before, x: Tensor, cos: Tensor, sin: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated q [1, H, N, d], rotated k and v [1, G, N, d] of the layer's input [N, D]; cos, sin: [N, 1, d / 2]."""
    width = 2 * cos.shape[-1]
    normed = rms_norm(x, x.shape[-1:], weights.norm, eps)
    q, k, v = (part(normed).view(len(x), -1, width) for part in (weights.q, weights.k, weights.v))
    if weights.q_norm is not None and weights.k_norm is not None:
        q, k = (rms_norm(h, (width,), w, eps) for h, w in ((q, weights.q_norm), (k, weights.k_norm)))
    q, k = _turned(q, cos, sin), _turned(k, cos, sin)
    q, k, v = (part.to(v.dtype).transpose(0, 1)[None] for part in (q, k, v))
    return q, k, v


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = heads.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def after(weights: After, attended: Tensor, x: Tensor, eps: float, rate: float | None) -> Tensor:
    """From attention's output [1, H, N, d] and the layer's input [N, D] to the layer's output [N, D]; rate: of dropout."""
    mixed = weights.out(attended[0].transpose(0, 1).reshape(len(x), -1))
    x = x + (mixed if rate is None else dropout(mixed, rate))
    normed = rms_norm(x, x.shape[-1:], weights.norm, eps)
    inner = weights.down(silu(weights.gate(normed)) * weights.up(normed))
    return x + (inner if rate is None else dropout(inner, rate))


class TrainedBackbone:
    """The layers of a Hugging Face base model in training.

    rate: of the dropout behind both halves of a layer. fixed: rows have one length, for which code is made; else the code
    is for any.
    """

    def __init__(self, base: Any, *, rate: float = 0.0, checkpointing: bool = False, fixed: bool = False) -> None:
        self._base, self._rate, self._checkpointing, self.fixed = base, rate, checkpointing, fixed
        self._scale: float = base.layers[0].self_attn.scaling
        self._eps: float = base.config.rms_norm_eps

    def hidden(self, embedded: Tensor, tree: Pass) -> Tensor:
        """Final states [N, D] of input embeddings [N, D]."""
        cos, sin = rotation(self._base.rotary_emb, embedded, tree)
        # none, not zero: a number that changes would become a variable of the compiled code
        rate = self._rate if self._rate and self._base.training else None
        x = embedded
        for number, layer in enumerate(self._base.layers):
            if self._checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._layer, number, layer, x, cos, sin, tree, rate, use_reentrant=False)
            else:
                x = self._layer(number, layer, x, cos, sin, tree, rate)
        return rms_norm(x, x.shape[-1:], self._base.norm.weight, self._eps)

    def _layer(
        self, number: int, layer: Any, x: Tensor, cos: Tensor, sin: Tensor, tree: Pass, rate: float | None
    ) -> Tensor:
        attention, mlp = layer.self_attn, layer.mlp
        first = Before(
            layer.input_layernorm.weight,
            Projection.of(attention.q_proj),
            Projection.of(attention.k_proj),
            Projection.of(attention.v_proj),
            attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            attention.k_norm.weight if hasattr(attention, "k_norm") else None,
        )
        second = After(
            Projection.of(attention.o_proj),
            layer.post_attention_layernorm.weight,
            Projection.of(mlp.gate_proj),
            Projection.of(mlp.up_proj),
            Projection.of(mlp.down_proj),
        )
        q, k, v = _compiled(before, fixed=self.fixed)(first, x, cos, sin, self._eps)
        attended = tree.attend(number, q, k, v, self._scale, None)
        output: Tensor = _compiled(after, fixed=self.fixed)(second, attended, x, self._eps, rate)
        return output


@cache
def _compiled(half: Callable[..., Any], *, fixed: bool) -> Callable[..., Any]:
    """With fixed sizes each length is a compilation, and after some of them it is an error; else the second is for all."""
    return torch.compile(half, fullgraph=True, dynamic=False if fixed else None)


def can_train(base: Any) -> bool:
    """Whether a base model is one that `TrainedBackbone` computes: adapters, for one, stand in their linear layers' place."""
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    return can_fuse(base) and all(
        type(getattr(half, name)) is nn.Linear
        for layer in base.layers
        for half, names in ((layer.self_attn, attention), (layer.mlp, mlp))
        for name in names
    )
