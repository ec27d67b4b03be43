"""Several processes of one run, as torchrun starts them: who is who, barrier, broadcast, all_gather.

Process 0 alone writes. What only it can know (what is done, where to resume from) it tells the others, so that all of
them take the same way. Without torchrun there is one process, and nothing here does anything (or imports torch).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from pauserec.errors import RunError

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=24)
"""How long processes wait for one that does a step alone. One that ends is noticed at once."""
SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "ncclRemoteError")
"""What gloo and NCCL say when another process is gone."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, for the length of the block. Raises RunError when another one ends."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    global _talk
    distributed.init_process_group(backend)
    _talk = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    try:
        yield
        barrier()
    except RuntimeError as error:
        if not _another_ended(error):
            raise
        raise RunError(
            "another process of this run ended or hangs, and says why in its own words if it could: "
            "run the same command again to go on from the last checkpoint"
        ) from None
    finally:
        _talk = None
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return int(_group().get_rank()) if _several() else 0


def world() -> int:
    """Number of processes."""
    return int(_group().get_world_size()) if _several() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def barrier() -> None:
    """Go on once every process is here."""
    all_gather(None)


def broadcast(find: Callable[[], T]) -> T:
    """What `find` gives in process 0, in every process."""
    if not _several():
        return find()
    return all_gather(find() if is_main() else None)[0]  # type: ignore[return-value]


def all_gather(value: T) -> list[T]:
    """The value of every process, in order."""
    if not _several():
        return [value]
    values: list[Any] = [None] * world()
    _group().all_gather_object(values, value, group=_talk)
    return values


_talk: Any = None
"""Over the CPU, while `joined`: talking over a GPU would copy every object there and back."""


def _group() -> Any:
    from torch import distributed

    return distributed


def _several() -> bool:
    return _talk is not None


def _another_ended(error: RuntimeError) -> bool:
    text = str(error)
    return any(sign in text for sign in SIGNS)
