"""FSDP2: of every weight, gradient and optimizer state each process holds a part, and sees the whole while it is used.

Everything that asks for a whole value is collective: all processes must do it, in the same order.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pauserec.runs import processes


def shard(module: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Shard `module` among the processes: each of `layers` is gathered for its own pass, all else while `module` runs."""
    device = next(module.parameters()).device
    mesh = init_device_mesh(device.type, (processes.world(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(module, FSDPModule)


def full(value: Tensor) -> Tensor:
    """All of a parameter, sharded or not."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def copy_full(parameter: Tensor, value: Tensor) -> None:
    """Write a full value into a parameter, sharded or not."""
    with torch.no_grad():
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Hold the weights outside the layers for the length of the block, to use `module`'s parts without its own forward."""
    if isinstance(module, FSDPModule):
        module.unshard()
    try:
        yield
    finally:
        if isinstance(module, FSDPModule):
            module.reshard()


def restore(module: nn.Module) -> None:
    """Put whole parameters in the place of sharded ones, for good."""
    known: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if isinstance(parameter, DTensor):
                if id(parameter) not in known:
                    known[id(parameter)] = nn.Parameter(full(parameter.detach()), parameter.requires_grad)
                part.register_parameter(name, known[id(parameter)])


_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def optimizer_state(module: nn.Module, optimizer: Any) -> dict[str, Any]:
    """The optimizer's whole state, in the first process; empty in the others."""
    return get_optimizer_state_dict(module, optimizer, options=_FULL)


def load_optimizer_state(module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    """Put each process's part of a whole state into its optimizer."""
    set_optimizer_state_dict(module, optimizer, state, options=_FULL)
