"""How fast this machine multiplies matrices: the yardstick for estimates and for how well training uses the hardware."""

import time
from functools import cache

import numpy as np
import torch


@cache
def matrix_rate(device: torch.device, bfloat16: bool) -> float:
    """Measured floating-point operations per second of a large matrix product. Measured once a process."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / float(np.median(times[2:]))
