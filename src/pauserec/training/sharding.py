"""FSDP2: of every weight, gradient and optimizer state each process holds a part, and sees the whole while it is used.

Everything that asks for a full value is collective: all processes must do it, in the same order. What torch has for this is
imported when it is used: it takes half a second.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pauserec.runs import processes


def shard(module: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Shard `module` among the processes: each of `layers` is gathered for its own pass, all else while `module` runs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(module.parameters()).device
    mesh = init_device_mesh(device.type, (processes.world(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    if processes.world() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def full(value: Tensor) -> Tensor:
    """All of a parameter, sharded or not."""
    sharded: Any = value if _is_sharded(value) else None
    return value if sharded is None else sharded.full_tensor()


def copy_full(parameter: Tensor, value: Tensor) -> None:
    """Write a full value into a parameter, sharded or not."""
    with torch.no_grad():
        if _is_sharded(parameter):
            from torch.distributed.tensor import distribute_tensor

            sharded: Any = parameter
            value = distribute_tensor(value.to(parameter.device), sharded.device_mesh, sharded.placements)
        parameter.copy_(value)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Hold the weights outside the layers for the length of the block, to use `module`'s parts without its own forward."""
    sharded: Any = module if is_sharded(module) else None
    if sharded:
        sharded.unshard()
    try:
        yield
    finally:
        if sharded:
            sharded.reshard()


def restore(module: nn.Module) -> None:
    """Put whole parameters in the place of sharded ones, for good."""
    known: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            if _is_sharded(parameter):
                if id(parameter) not in known:
                    known[id(parameter)] = nn.Parameter(full(parameter.detach()), parameter.requires_grad)
                part.register_parameter(name, known[id(parameter)])


def optimizer_state(module: nn.Module, optimizer: Any) -> dict[str, Any]:
    """The optimizer's whole state, in the first process; empty in the others."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    return get_optimizer_state_dict(module, optimizer, options=_options())


def load_optimizer_state(module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    """Put each process's part of a whole state into its optimizer."""
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    set_optimizer_state_dict(module, optimizer, state, options=_options())


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _is_sharded(value: Tensor) -> bool:
    """Whether it is a DTensor, told without importing what makes one."""
    return hasattr(value, "full_tensor")
