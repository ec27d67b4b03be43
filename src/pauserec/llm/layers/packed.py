"""Linear layers for inference: several of one input joined, and on a CPU laid out once for its matrix kernels (oneDNN).

On a CPU a plain linear layer lays its weights out anew in every call, or leaves it to a kernel that is slow for the few
rows of a decoding step. The operators are those that PyTorch's own compiler uses; where a build or a device lacks them,
nothing is packed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

ROWS = 20
"""Rows the layout is made for: those of a decoding step. It suits a prompt's rows as well."""


def can_pack(weight: Tensor) -> bool:
    """Whether this weight can be laid out: on a CPU whose oneDNN handles its type."""
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch._C._has_mkldnn
    if not known or weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class PackedLinear(nn.Module):
    """x [..., in] -> [..., out]. The weight exists in packed form only: it cannot be trained or saved."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed: Any = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """The plain product."""
        return self.run(x, "none")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """product + other, other [..., out]."""
        return self.run_with(x, other, "add")

    def run(self, x: Tensor, then: str) -> Tensor:
        """The product and an elementwise function of it ("none", "swish")."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, then, [], "")
        return result

    def run_with(self, x: Tensor, other: Tensor, then: str) -> Tensor:
        """The product joined with another tensor [..., out] ("add", "mul")."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, then)
        return result


class PlainLinear(nn.Module):
    """The same by PyTorch's own kernels."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The plain product."""
        return linear(x, self.weight, self.bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """product + other, x [N, in], other [N, out]."""
        return torch.addmm(other, x, self.weight.T) if self.bias is None else other + self(x)


Linear = PackedLinear | PlainLinear


def joined(linears: Sequence[nn.Linear]) -> Linear:
    """Several layers of one input as a single one, their outputs side by side, packed where that can be."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    bias = torch.cat(biases) if biases else None
    return PackedLinear(weight, bias) if can_pack(weight) else PlainLinear(weight, bias)


class GatedLinear(nn.Module):
    """silu(gate(x)) * up(x), the inner half of the usual MLP: in the kernels where packed, else from one joined product."""

    def __init__(self, gate: nn.Linear, up: nn.Linear) -> None:
        super().__init__()
        self.parts = nn.ModuleList([joined([gate]), joined([up])] if can_pack(gate.weight) else [joined([gate, up])])

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        gate, up = self.parts[0], self.parts[-1]
        if isinstance(gate, PackedLinear) and isinstance(up, PackedLinear):
            return up.run_with(x, gate.run(x, "swish"), "mul")
        a, b = gate(x).chunk(2, dim=-1)
        gated: Tensor = silu(a) * b
        return gated


def pack_linears(module: nn.Module) -> int:
    """Replace the linear layers below `module` by packed ones, where they can be. Gives how many were replaced."""
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and can_pack(child.weight):
                setattr(parent, name, PackedLinear(child.weight, child.bias))
                count += 1
    return count
