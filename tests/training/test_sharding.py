"""FSDP2: each process holds half of every weight, and a step has the loss and gradients of one process."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import AutoModelForCausalLM

from commands import together
from pauserec.config import CptConfig
from pauserec.training.checkpoints import Clock, read_checkpoint, write_checkpoint
from pauserec.training.optimizer import adamw
from pauserec.training.sharding import copy_full, full, gathered, is_sharded, restore, shard

TEXTS = torch.arange(24).view(2, 12)


def test_a_sharded_step_equals_a_whole_one(tiny_model: Path) -> None:
    for process in together(2, __file__, str(tiny_model)):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()


def test_a_checkpoint_goes_on_where_sharding_changed(tiny_model: Path, tmp_path: Path) -> None:
    for process in together(2, __file__, str(tiny_model), str(tmp_path)):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()


def resume(folder: Path, out: Path) -> None:
    """What each of the two processes does: write a checkpoint of one kind, read it into the other, take the same step."""
    for number, (before, after) in enumerate([(False, True), (True, False)]):
        model, optimizer = trained(folder, sharded=before)
        path = out / str(number)
        write_checkpoint(path, 1, model, optimizer, Clock())
        other, moments = trained(folder, sharded=after, steps=0)
        read_checkpoint(path / "checkpoint-1", other, moments)
        for again in (model, other):
            again(TEXTS, labels=TEXTS).loss.backward()
        optimizer.step()
        moments.step()
        for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            torch.testing.assert_close(full(one), full(two), rtol=1e-4, atol=1e-6, msg=name)


def trained(folder: Path, *, sharded: bool, steps: int = 2) -> tuple[Any, torch.optim.Optimizer]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    if sharded:
        shard(model, model.model.layers)
    optimizer = adamw(model, CptConfig(kind="cpt", name="cpt", learning_rate=1e-3))
    for _ in range(steps):
        model(TEXTS, labels=TEXTS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def step(folder: Path) -> None:
    """What each of the two processes does."""
    rank = distributed.get_rank()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shard(model, model.model.layers)
    assert is_sharded(model)
    held = sum(p.to_local().numel() for p in model.parameters())
    assert held < 0.52 * sum(p.numel() for p in plain.parameters())

    expected = plain(TEXTS, labels=TEXTS).loss
    expected.backward()
    loss = model(TEXTS[rank : rank + 1], labels=TEXTS[rank : rank + 1]).loss
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
        step(Path(sys.argv[1])) if len(sys.argv) == 2 else resume(*map(Path, sys.argv[1:]))
