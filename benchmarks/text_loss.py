"""Cross-entropy over a whole vocabulary: pauserec's against PyTorch's chunked one and against all logits at once.

    python benchmarks/text_loss.py [--targets 2048] [--width 576] [--vocabulary 50179] [--trained 1027] [--rounds 5] [--save]

The shape is that of an embedding-only stage: of the vocabulary's rows only the last are trained. PyTorch's fused loss knows
no frozen rows, so it is given the joined table. A round is forward and backward, in bfloat16 where the machine has it.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import arguments, interleaved, ratio, report
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, linear_cross_entropy

from pauserec.runs.device import best_device, bfloat16_is_fast, peak_memory
from pauserec.training.losses import Head, full_softmax_loss

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ours(hidden: Tensor, table: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    return full_softmax_loss(hidden, labels, Head(table, rows, len(table) - len(rows)))


def chunked(hidden: Tensor, table: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return linear_cross_entropy(*_joined(hidden, table, rows), labels, reduction="sum", options=options)


def whole(hidden: Tensor, table: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(linear(*_joined(hidden, table, rows)).float(), labels, reduction="sum")


SIDES: dict[str, Loss] = {"pauserec": ours, "torch_chunked": chunked, "torch_whole": whole}


def _joined(hidden: Tensor, table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    kind = torch.bfloat16 if bfloat16_is_fast(hidden.device) else torch.float32
    return hidden.to(kind), torch.cat([table[: -len(rows)], rows]).to(kind)


def step(loss: Loss, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of the states and of the trained rows."""
    hidden, table, rows, labels = inputs
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=bfloat16_is_fast(hidden.device)):
        total = loss(hidden, table, rows, labels)
    return list(torch.autograd.grad(total, (hidden, rows)))


def main() -> None:
    parser = arguments(__doc__)
    shape = {"targets": 2048, "width": 576, "vocabulary": 50179, "trained": 1027}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peak", choices=SIDES, help="only print the peak memory of a process that takes this side's step"
    )
    options = parser.parse_args()
    shape = {name: getattr(options, name) for name in shape}
    device = best_device()
    torch.manual_seed(0)
    hidden = torch.randn(shape["targets"], shape["width"], device=device, requires_grad=True)
    table = torch.randn(shape["vocabulary"], shape["width"], device=device) / shape["width"] ** 0.5
    rows = table[-shape["trained"] :].clone().requires_grad_()
    labels = torch.randint(shape["vocabulary"], (shape["targets"],), device=device)
    inputs = (hidden, table, rows, labels)
    if options.peak:
        before = peak_memory()
        step(SIDES[options.peak], inputs)
        print(peak_memory() - before)
        return
    gradients = {name: step(loss, inputs) for name, loss in SIDES.items()}
    times = interleaved({name: partial(step, loss, inputs) for name, loss in SIDES.items()}, rounds=options.rounds)
    again = [sys.executable, __file__, *(f"--{name}={value}" for name, value in shape.items())]
    peaks = {name: int(subprocess.check_output([*again, f"--peak={name}"])) >> 20 for name in SIDES}
    content: dict[str, Any] = {"shape": shape, "bfloat16": bfloat16_is_fast(device)}
    for name in ("torch_chunked", "torch_whole"):
        content[f"speedup_vs_{name}"] = ratio(times, name, "pauserec")
        apart = [
            (ours - theirs).norm() / theirs.norm()
            for ours, theirs in zip(gradients["pauserec"], gradients[name], strict=True)
        ]
        content[f"gradients_vs_{name}"] = round(float(max(apart)), 6)
    report("text-loss", {**content, "added_peak_mb": peaks, "times": times}, options.save)


if __name__ == "__main__":
    main()
