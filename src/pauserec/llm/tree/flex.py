"""Tree passes for training on a GPU: all documents of a packed row in one FlexAttention call.

llm/tree/passes.py runs groups of similar documents one after another, which suits a CPU; on a GPU that is many small kernels.
Here every token carries what decides who sees it, and a compiled kernel skips the blocks in which nobody sees anything.

Shapes: N tokens of the pass, H heads, G key/value heads, D head width.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from pauserec.llm.tree.attention import lower
from pauserec.llm.tree.passes import Document, TreePass

BRANCHLESS = -1


class FlexPass(TreePass):
    """See TreePass: the same documents, positions and results."""

    def __post_init__(self) -> None:
        rows = [_tokens(number, document) for number, document in enumerate(self.documents)]
        place = torch.arange(self.opening)
        first = torch.stack([torch.full_like(place, -1), torch.full_like(place, BRANCHLESS), place, place + 1])
        self._marks = torch.cat([first, *rows], dim=1).to(self.device)
        self._masks: dict[int | None, BlockMask] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """Attention output [1, H, N, D] for q [1, H, N, D] and k, v [1, G, N, D]."""
        q, k, v = lower(q), lower(k), lower(v)
        if window not in self._masks:
            count = q.shape[2]
            self._masks[window] = create_block_mask(
                self._visible(window), None, None, count, count, device=q.device, _compile=q.device.type == "cuda"
            )
        run = _kernel(compiled=q.device.type == "cuda")
        output: Tensor = run(q, k, v, block_mask=self._masks[window], scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        return output

    def _visible(self, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """Whether token i may see token j."""
        document, branch, place, limit = self._marks
        position = self.positions()[0]

        def visible(_: Tensor, __: Tensor, i: Tensor, j: Tensor) -> Tensor:
            opening = (document[j] < 0) & (j <= i)
            trunk = (document[i] == document[j]) & (branch[j] == BRANCHLESS) & (place[j] < limit[i])
            own = (branch[i] == branch[j]) & (branch[j] != BRANCHLESS) & (document[i] == document[j]) & (j <= i)
            near = position[i] - position[j] < (len(position) if window is None else window)
            seen: Tensor = (opening | trunk | own) & near
            return seen

        return visible


def _tokens(number: int, document: Document) -> Tensor:
    """For every token of a document: the document, its branch, its place in the trunk, and how much trunk it sees. [4, n]"""
    trunk = torch.arange(document.trunk)
    branch, limit = torch.full_like(trunk, BRANCHLESS), trunk + 1
    for own, (attach, length) in enumerate(document.branches):
        branch = torch.cat([branch, torch.full((length,), own)])
        limit = torch.cat([limit, torch.full((length,), attach)])
    place = torch.cat([trunk, torch.full((len(branch) - len(trunk),), document.trunk)])
    return torch.stack([torch.full_like(branch, number), branch, place, limit])


@cache
def _kernel(*, compiled: bool) -> Callable[..., Any]:
    """FlexAttention for rows of any length; as it stands it is for tests, for it holds every score."""
    kernel: Any = flex_attention
    return torch.compile(kernel, dynamic=True) if compiled else kernel


def tree_pass(documents: Sequence[Document], device: torch.device, opening: int, *, flex: bool) -> TreePass:
    """A pass over whole documents, by the kernel that was asked for."""
    return (FlexPass if flex else TreePass)(documents, device, opening)
