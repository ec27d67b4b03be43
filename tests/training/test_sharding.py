"""FSDP2: each process holds half of every weight, and a step has the loss and gradients of one process."""

import sys
from pathlib import Path

import pytest
import torch
from torch import distributed
from transformers import AutoModelForCausalLM

from commands import together
from pauserec.training.sharding import copy_full, full, gathered, is_sharded, restore, shard


def test_a_sharded_step_equals_a_whole_one(tiny_model: Path) -> None:
    for process in together(2, __file__, str(tiny_model)):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()


def step(folder: Path) -> None:
    """What each of the two processes does."""
    rank = distributed.get_rank()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shard(model, model.model.layers)
    assert is_sharded(model)
    held = sum(p.to_local().numel() for p in model.parameters())
    assert held < 0.52 * sum(p.numel() for p in plain.parameters())

    texts = torch.arange(24).view(2, 12)
    expected = plain(texts, labels=texts).loss
    expected.backward()
    loss = model(texts[rank : rank + 1], labels=texts[rank : rank + 1]).loss
    loss.backward()
    distributed.all_reduce(loss := loss.detach())
    assert float(loss) / 2 == pytest.approx(float(expected.detach()), rel=1e-5)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(full(one.grad), other.grad, rtol=1e-4, atol=1e-6)

    copy_full(next(model.parameters()), torch.full_like(next(plain.parameters()), 0.5))
    with gathered(model):
        assert (model.model.embed_tokens.weight == 0.5).all()
    restore(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert {name: p.shape for name, p in model.state_dict().items()} == {
        n: p.shape for n, p in plain.state_dict().items()
    }


if __name__ == "__main__":
    from pauserec.runs import processes

    with processes.joined():
        step(Path(sys.argv[1]))
