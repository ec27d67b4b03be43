"""A lean forward for the most common decoder layer (Llama, Qwen3), for inference on a CPU.

What transformers spreads over some forty operations a layer takes about fifteen: queries, keys and values from one
product, rotary embedding of queries and keys at once, activation and residual inside the matrix kernels. After prefill
only the last token's state is wanted, so the last layer runs its second half for that token alone. Every other model
goes through its own code; tests hold both to the same states.

Shapes: N tokens of a pass, B documents, D width, H heads, G key/value heads, d head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from pauserec.llm.cache import ExtendPass
from pauserec.llm.packed import PackedLinear, can_pack
from pauserec.llm.tree import Pass

LAYERS = ("LlamaDecoderLayer", "Qwen3DecoderLayer")


@dataclass(frozen=True)
class _Layer:
    """One layer's weights. norms: before attention and before the MLP; head_norms: of queries and keys, where there are."""

    norms: tuple[Tensor, Tensor]
    head_norms: tuple[Tensor, Tensor] | None
    qkv: PackedLinear
    out: PackedLinear
    gate: PackedLinear
    up: PackedLinear
    down: PackedLinear


class FusedBackbone:
    """The layers of a Hugging Face base model, packed; it takes them out of the model."""

    def __init__(self, base: Any) -> None:
        config = base.config
        self._heads, self._groups = config.num_attention_heads, config.num_key_value_heads
        self._eps: float = config.rms_norm_eps
        self._scale: float = base.layers[0].self_attn.scaling
        self._rotary = base.rotary_emb
        self._norm: Tensor = base.norm.weight.clone()
        self._layers = []
        while len(base.layers):  # each layer's own weights go as soon as they are packed
            self._layers.append(_layer(base.layers[0]))
            del base.layers[0]

    def hidden(self, embedded: Tensor, tree: Pass) -> Tensor:
        """Final states [N, D] of input embeddings [N, D]."""
        cos, sin = self._rotation(embedded, tree)
        x = embedded
        for number, layer in enumerate(self._layers):
            q, k, v = self._project(layer, x, cos, sin)
            x = self._rest(layer, tree.attend(number, q, k, v, self._scale, None), x)
        return rms_norm(x, self._norm.shape, self._norm, self._eps)

    def last(self, embedded: Tensor, extension: ExtendPass) -> Tensor:
        """Final state of each document's last token [B, D]."""
        cos, sin = self._rotation(embedded, extension)
        x, final = embedded, len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            q, k, v = self._project(layer, x, cos, sin)
            if number < final:
                x = self._rest(layer, extension.attend(number, q, k, v, self._scale, None), x)
            else:
                q, x = q[:, :, extension.last], x[extension.last]
                x = self._rest(layer, extension.attend_last(number, q, k, v, self._scale), x)
        return rms_norm(x, self._norm.shape, self._norm, self._eps)

    def _rotation(self, embedded: Tensor, tree: Pass) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every position, [N, 1, d / 2]: both halves of a head turn by the same angle."""
        cos, sin = self._rotary(embedded[None], tree.positions())
        half = cos.shape[-1] // 2
        return cos[0, :, None, :half], sin[0, :, None, :half]

    def _project(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q [1, H, N, d], rotated k and v [1, G, N, d]."""
        heads, groups = self._heads, self._groups
        joined = layer.qkv(rms_norm(x, x.shape[-1:], layer.norms[0], self._eps)).view(len(x), heads + 2 * groups, -1)
        turned = joined[:, : heads + groups]
        if layer.head_norms is not None:
            of_q, of_k = layer.head_norms
            q, k = turned[:, :heads], turned[:, heads:]
            turned = torch.cat(
                [rms_norm(q, of_q.shape, of_q, self._eps), rms_norm(k, of_k.shape, of_k, self._eps)], dim=1
            )
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).transpose(0, 1)[None]
        return turned[:, :heads], turned[:, heads:], joined[:, heads + groups :].transpose(0, 1)[None]

    def _rest(self, layer: _Layer, attended: Tensor, x: Tensor) -> Tensor:
        """From attention's output [1, H, N, d] and the layer's input [N, D] to the layer's output [N, D]."""
        x = layer.out.plus(attended[0].transpose(0, 1).reshape(len(x), -1), x)
        normed = rms_norm(x, x.shape[-1:], layer.norms[1], self._eps)
        return layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), x)


def can_fuse(base: Any) -> bool:
    """Whether a base model is one that `FusedBackbone` computes, on a device and in a type that can be packed."""
    layers = getattr(base, "layers", None)
    if not isinstance(layers, nn.ModuleList) or {type(layer).__name__ for layer in layers} - set(LAYERS):
        return False
    plain = all(getattr(layer.self_attn, "sliding_window", None) is None for layer in layers)
    return plain and base.config.hidden_act == "silu" and can_pack(base.norm.weight)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    normed = hasattr(attention, "q_norm")
    return _Layer(
        norms=(layer.input_layernorm.weight.clone(), layer.post_attention_layernorm.weight.clone()),
        head_norms=(attention.q_norm.weight.clone(), attention.k_norm.weight.clone()) if normed else None,
        qkv=PackedLinear.joined([attention.q_proj, attention.k_proj, attention.v_proj]),
        out=PackedLinear.joined([attention.o_proj]),
        gate=PackedLinear.joined([mlp.gate_proj]),
        up=PackedLinear.joined([mlp.up_proj]),
        down=PackedLinear.joined([mlp.down_proj]),
    )
