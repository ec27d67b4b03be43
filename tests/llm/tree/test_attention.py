"""All ways to attend are one computation."""

import pytest
import torch

from pauserec.llm.tree.attention import attend, ungrouped


@pytest.mark.parametrize("rows", [1, 3])
def test_heads_with_a_key_head_of_their_own_give_the_same_output_and_gradients(rows: int) -> None:
    torch.manual_seed(0)
    shapes = ((3, 6, 5, 8), (3, 2, 9, 8), (3, 2, 9, 8))
    mask = torch.rand(rows, 1, 5, 9) < 0.5
    mask[..., 0] = True
    found = []
    for way in (attend, ungrouped):
        inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for shape in shapes]
        output = way(*inputs, 0.3, mask)
        found.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
