"""Linear layers whose weights are laid out once for the processor's matrix kernels (oneDNN), for inference on a CPU.

A plain linear layer lays its weights out anew in every call, or leaves it to a kernel that is slow for the few rows of a
decoding step. The operators are those that PyTorch's own compiler uses; where a build lacks them, nothing is packed.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

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

    @classmethod
    def joined(cls, linears: Sequence[nn.Linear]) -> Self:
        """Several layers of one input as a single one, their outputs side by side."""
        weights = [linear.weight.detach() for linear in linears]
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        return cls(torch.cat(weights), torch.cat(biases) if biases else None)

    def forward(self, x: Tensor) -> Tensor:
        """The plain product."""
        return self._run(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        """silu(product)."""
        return self._run(x, "swish")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """product + other, other [..., out]."""
        return self._run_with(x, other, "add")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """product * other, other [..., out]."""
        return self._run_with(x, other, "mul")

    def _run(self, x: Tensor, then: str) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, then, [], "")
        return result

    def _run_with(self, x: Tensor, other: Tensor, then: str) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, then)
        return result


def pack_linears(module: nn.Module) -> int:
    """Replace the linear layers below `module` by packed ones, where they can be. Gives how many were replaced."""
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and can_pack(child.weight):
                setattr(parent, name, PackedLinear(child.weight, child.bias))
                count += 1
    return count
