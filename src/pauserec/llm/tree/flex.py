"""Tree passes for training on a GPU: all documents of a packed row in one FlexAttention call.

llm/tree/passes.py runs groups of similar documents one after another, which suits a CPU; on a GPU that is many small kernels.
Here every token carries what decides who sees it, and a compiled kernel skips the blocks in which nobody sees anything.

Shapes: N tokens of the pass, H heads, G key/value heads, D head width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pauserec.llm.tree.attention import lower
from pauserec.llm.tree.passes import TreePass
from pauserec.llm.tree.rule import Layout, visible


class FlexPass(TreePass):
    """See TreePass: the same documents, positions and results."""

    def __init__(self, layout: Layout, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.marks = layout.marks(self.device)
        self._masks: dict[int | None, Any] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D]."""
        q, k, v = lower(q), lower(k), lower(v)
        if window not in self._masks:
            count = q.shape[2]
            from torch.nn.attention.flex_attention import create_block_mask

            self._masks[window] = create_block_mask(
                self._visible(window), None, None, count, count, device=q.device, _compile=q.device.type == "cuda"
            )
        run = _kernel(compiled=q.device.type == "cuda")
        output: Tensor = run(q, k, v, block_mask=self._masks[window], scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        return output

    def _visible(self, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """Whether token i may see token j."""
        document, branch, place, limit = self.marks

        def sees(_: Tensor, __: Tensor, i: Tensor, j: Tensor) -> Tensor:
            query, key = ([part[at] for part in (document, branch, place, limit)] for at in (i, j))
            seen: Tensor = visible(query, key, window)
            return seen

        return sees


@cache
def _kernel(*, compiled: bool) -> Callable[..., Any]:
    """FlexAttention for rows of any length; as it stands it is for tests, for it holds every score."""
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Any = flex_attention
    return torch.compile(kernel, dynamic=True) if compiled else kernel


def tree_pass(layout: Layout, device: torch.device, *, flex: bool) -> TreePass:
    """A pass over whole documents, by the kernel that was asked for."""
    return (FlexPass if flex else TreePass)(layout, device)
