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
from pauserec.llm.tree.passes import Pass, TreePass
from pauserec.llm.tree.rule import PLACE, Layout, visible


class FlexPass:
    """One pass over a row of whole documents. marks: document, branch, place and limit of its tokens, int64 [4, N]."""

    def __init__(self, marks: Tensor) -> None:
        self.marks = marks
        self._masks: dict[int | None, Any] = {}

    def positions(self) -> Tensor:
        """Position ids, int64 [1, N]."""
        return self.marks[PLACE][None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D]."""
        q, k, v = lower(q), lower(k), lower(v)
        if window not in self._masks:
            self._masks[window] = self._mask(window, q.device)
        run = _kernel(compiled=q.device.type == "cuda")
        output: Tensor = run(q, k, v, block_mask=self._masks[window], scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        return output

    def _mask(self, window: int | None, device: torch.device) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        count, compiled = self.marks.shape[1], device.type == "cuda"
        return create_block_mask(self._visible(window), None, None, count, count, device=device, _compile=compiled)

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
    """FlexAttention for rows of one length; as it stands, uncompiled, it is for tests, for it holds every score.

    Compiled as a whole or not at all: left to itself, dynamo would fall back to that without a word.
    """
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Any = flex_attention
    return torch.compile(kernel, fullgraph=True, dynamic=False) if compiled else kernel


def tree_pass(layout: Layout | Tensor, device: torch.device) -> Pass:
    """A pass over whole documents: by groups of similar ones, or, of a layout that is a tensor already, all at once."""
    return FlexPass(layout) if isinstance(layout, Tensor) else TreePass(layout, device)
