"""A checkpoint's weights on disk: 16 bit, and of a stage's only what differs from the checkpoint it rests on.

Most of a small model is a table of text tokens that no stage trains; kept once, a run folder is a fraction as large.
"""

from collections.abc import Mapping
from os.path import relpath
from pathlib import Path

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pauserec.errors import RunError
from pauserec.runs.files import read_json, write_atomically

DIFFERENCE, RESTS_ON = "difference.safetensors", "rests_on.json"
"""Tensors, or rows of tensors, that a stage changed, and the folder of the checkpoint that all others stand in."""
ROWS, PLACES = "rows ", "places "
INPUT_TABLES = ("embed_tokens.weight", "embed_in.weight", "wte.weight")
"""How families of models name their input embedding: Llama and most others, GPT-NeoX, GPT-2."""
LARGEST_HALF = float(torch.finfo(torch.float16).max)


def halved(weights: Tensor) -> Tensor:
    """Float weights in float16, which keeps three more bits than bfloat16; as they are where a value would overflow."""
    if not weights.is_floating_point() or (weights.numel() and weights.abs().max() > LARGEST_HALF):
        return weights
    return weights.to(torch.float16)


def halved_all(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor `halved`; those that share memory, as tied tables do, go on sharing it."""
    once: dict[tuple[int, torch.Size], Tensor] = {}
    for tensor in weights.values():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in once:
            once[key] = halved(tensor.detach())
    return {name: once[tensor.data_ptr(), tensor.shape] for name, tensor in weights.items()}


def whole_checkpoint(folder: Path) -> Path:
    """The folder that holds configuration, tokenizer and all weights of a checkpoint: itself, or the one it rests on."""
    rests_on = read_json(folder / RESTS_ON).get("folder")
    return folder if rests_on is None else (folder / str(rests_on)).resolve()


def save_difference(folder: Path, weights: Mapping[str, Tensor], start: Path) -> None:
    """Write what of `weights` (by name, rounded by `halved`) differs from the checkpoint that `start` is or rests on."""
    from transformers import AutoModelForCausalLM

    whole = whole_checkpoint(start)
    # through the model, for some families name their tensors otherwise on disk
    model = AutoModelForCausalLM.from_pretrained(
        whole, dtype=torch.float16, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    changed: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, before in model.state_dict().items():
        now = weights[name].detach().cpu()
        if before.data_ptr() in known or torch.equal(now, before.to(now.dtype)):
            continue
        known.add(before.data_ptr())  # tied tables are one
        before = before.to(now.dtype)
        rows = (now != before).any(dim=1).nonzero()[:, 0] if now.ndim == 2 else torch.arange(0)
        if 0 < 2 * len(rows) < len(now):
            changed |= {ROWS + name: now[rows].contiguous(), PLACES + name: rows}
        else:
            changed[name] = now.contiguous()
    save_file(changed, folder / DIFFERENCE)
    write_atomically(folder / RESTS_ON, orjson.dumps({"folder": relpath(whole, folder.resolve())}))


def put_difference(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Put what `save_difference` wrote into the weights of the checkpoint it rests on; nothing where there is none.

    Raises RunError where the file is damaged.
    """
    path = folder / DIFFERENCE
    if not path.exists():
        return
    try:
        with torch.no_grad(), safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key.startswith(PLACES):
                    continue
                name = key.removeprefix(ROWS)
                found = file.get_tensor(key)
                if key.startswith(ROWS):
                    weights[name][file.get_tensor(PLACES + name)] = found.to(weights[name].dtype)
                else:
                    weights[name].copy_(found)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise RunError(f"{path} is damaged ({error}): redo the step with --redo {folder.name}") from None


def input_table(folder: Path) -> Tensor | None:
    """The input embedding [rows, D] of a checkpoint; None where its family calls it otherwise."""
    for path in sorted(whole_checkpoint(folder).glob("*.safetensors")):
        for name, table in load_file(path).items():
            if _is_input(name):
                return _changed(table, folder)
    return None


def _changed(table: Tensor, folder: Path) -> Tensor:
    """The input embedding of the checkpoint that `folder` rests on, as it is in `folder`."""
    changed = load_file(folder / DIFFERENCE) if (folder / DIFFERENCE).exists() else {}
    for name, part in changed.items():
        if _is_input(name):
            if not name.startswith(ROWS):
                return part
            table = table.to(part.dtype)
            table[changed[PLACES + name.removeprefix(ROWS)]] = part
    return table


def _is_input(name: str) -> bool:
    return name.endswith(INPUT_TABLES) and not name.startswith(PLACES)
