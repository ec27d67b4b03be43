"""Which device a run uses, what it multiplies fast, and how much memory it holds."""

import gc
import os
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pauserec.config import ModelConfig


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_doubles_bfloat16(torch.cpu.get_capabilities())


def cpu_doubles_bfloat16(known: Mapping[str, Any]) -> bool:
    """Of what torch.cpu says of a processor: whether bfloat16 products pay there.

    AVX-512's product of bfloat16 pairs doubles float32's rate on AMD's cores. On Intel's it runs in one unit where float32
    has two, so it gains nothing and its sums of rounded numbers cost more; there AMX pays, which a virtual machine may hide.
    """
    intel = str(known.get("cpu_name", "")).startswith("Intel")
    return bool(known.get("amx_bf16")) or (bool(known.get("avx512_bf16")) and not intel)


def use_bfloat16(config: ModelConfig, device: torch.device) -> bool:
    """What `model.precision` means on this device."""
    return config.precision == "bfloat16" or (config.precision == "auto" and bfloat16_is_fast(device))


def best_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def bound_kernel_cache() -> None:
    """Let oneDNN keep few kernels: packed batches and prompts hardly ever repeat a shape, so memory would grow.

    For the whole process, so it is a program's choice to make, before its first product; no model makes it by being built.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def forget_peak() -> None:
    """Let `peak_memory` count from now on, where the system can: on a GPU and on Linux."""
    if torch.cuda.is_available():
        gc.collect()  # an earlier stage's training, in cycles with its model and optimizer, may still hold their memory
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        with suppress(OSError):
            CLEAR.write_text("5")


def peak_memory() -> int:
    """Most bytes held since `forget_peak`: of the GPU, or resident in this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return _status("VmHWM") or _most_resident()


def resident_memory() -> int:
    """Bytes of this process in memory now; where the system does not say, the most there ever were."""
    return _status("VmRSS") or _most_resident()


def _status(key: str) -> int:
    if not STATUS.exists():
        return 0
    found = [line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith(key)]
    return 1024 * int(found[0]) if found else 0


def _most_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
