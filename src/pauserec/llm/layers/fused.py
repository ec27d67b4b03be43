"""A lean forward for the most common decoder layer (Llama, Qwen3), for inference.

What transformers spreads over some forty operations a layer takes about fifteen: queries, keys and values from one
product, rotary embedding of queries and keys at once, activation and residual inside the matrix kernels. After prefill
only the last token's state is wanted, so the last layer runs its second half for that token alone. Every other model
goes through its own code; tests hold both to the same states.

The two halves of a layer around its attention are functions of tensors and weights alone, so that a compiler
(`compile`) makes each once for all layers and fuses what lies between the products.

Shapes: N tokens of a pass, B documents, D width, H heads, G key/value heads, d head width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from pauserec.llm.layers.packed import GatedLinear, joined
from pauserec.llm.tree.passes import Extension, Pass

LAYERS = ("LlamaDecoderLayer", "Qwen3DecoderLayer")


class _Layer(nn.Module):
    """One layer's weights, and what it computes before and after attention."""

    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.heads: int = config.num_attention_heads
        self.turned: int = config.num_attention_heads + config.num_key_value_heads
        """Heads of queries and keys: those with a rotary embedding."""
        self.eps: float = config.rms_norm_eps
        self.norm = _frozen(layer.input_layernorm.weight)
        self.second_norm = _frozen(layer.post_attention_layernorm.weight)
        normed = hasattr(attention, "q_norm")
        self.q_norm = _frozen(attention.q_norm.weight) if normed else None
        self.k_norm = _frozen(attention.k_norm.weight) if normed else None
        self.qkv = joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = joined([attention.o_proj])
        self.inner = GatedLinear(mlp.gate_proj, mlp.up_proj)
        self.down = joined([mlp.down_proj])

    def before(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q [1, H, N, d], rotated k and v [1, G, N, d] of the layer's input [N, D]."""
        heads, both = self.heads, self.turned
        head_parts = self.qkv(rms_norm(x, x.shape[-1:], self.norm, self.eps)).view(len(x), 2 * both - heads, -1)
        turned = head_parts[:, :both]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = turned[:, :heads], turned[:, heads:]
            q, k = (rms_norm(h, w.shape, w, self.eps) for h, w in ((q, self.q_norm), (k, self.k_norm)))
            turned = torch.cat([q, k], dim=1)
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).transpose(0, 1)[None]
        return turned[:, :heads], turned[:, heads:], head_parts[:, both:].transpose(0, 1)[None]

    def after(self, attended: Tensor, x: Tensor) -> Tensor:
        """From attention's output [1, H, N, d] and the layer's input [N, D] to the layer's output [N, D]."""
        x = self.out.plus(attended[0].transpose(0, 1).reshape(len(x), -1), x)
        return self.down.plus(self.inner(rms_norm(x, x.shape[-1:], self.second_norm, self.eps)), x)


class FusedBackbone:
    """The layers of a Hugging Face base model; it takes them out of the model."""

    def __init__(self, base: Any, *, compile: bool = False) -> None:
        self._eps: float = base.config.rms_norm_eps
        self._scale: float = base.layers[0].self_attn.scaling
        self._rotary = base.rotary_emb
        self._norm = _frozen(base.norm.weight)
        self._layers: list[_Layer] = []
        while len(base.layers):  # each layer's own weights go as soon as they are joined
            self._layers.append(_Layer(base.layers[0], base.config))
            del base.layers[0]
        self._before = torch.compile(_Layer.before, fullgraph=True) if compile else _Layer.before
        self._after = torch.compile(_Layer.after, fullgraph=True) if compile else _Layer.after

    def hidden(self, embedded: Tensor, tree: Pass) -> Tensor:
        """Final states [N, D] of input embeddings [N, D]."""
        cos, sin = rotation(self._rotary, embedded, tree)
        x = embedded
        for number, layer in enumerate(self._layers):
            q, k, v = self._before(layer, x, cos, sin)
            x = self._after(layer, tree.attend(number, q, k, v, self._scale, None), x)
        return rms_norm(x, self._norm.shape, self._norm, self._eps)

    def last(self, embedded: Tensor, extension: Extension) -> Tensor:
        """Final state of each document's last token [B, D]."""
        cos, sin = rotation(self._rotary, embedded, extension)
        x, final = embedded, len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            q, k, v = self._before(layer, x, cos, sin)
            if number < final:
                x = self._after(layer, extension.attend(number, q, k, v, self._scale, None), x)
            else:
                q, x = q[:, :, extension.last], x[extension.last]
                x = self._after(layer, extension.attend_last(number, q, k, v, self._scale), x)
        return rms_norm(x, self._norm.shape, self._norm, self._eps)


def rotation(rotary: Any, embedded: Tensor, tree: Pass) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position, [N, 1, d / 2]: both halves of a head turn by the same angle."""
    cos, sin = rotary(embedded[None], tree.positions())
    half = cos.shape[-1] // 2
    return cos[0, :, None, :half], sin[0, :, None, :half]


def can_fuse(base: Any) -> bool:
    """Whether a base model is one that `FusedBackbone` computes."""
    layers = getattr(base, "layers", None)
    if not isinstance(layers, nn.ModuleList) or {type(layer).__name__ for layer in layers} - set(LAYERS):
        return False
    plain = all(getattr(layer.self_attn, "sliding_window", None) is None for layer in layers)
    return plain and base.config.hidden_act == "silu"


def _frozen(weight: Tensor) -> nn.Parameter:
    """A copy that outlives the layer it came from."""
    return nn.Parameter(weight.detach().clone(), requires_grad=False)
