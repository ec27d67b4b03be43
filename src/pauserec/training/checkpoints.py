"""Checkpoints that survive kill -9, and the best weights by validation.

A checkpoint's manifest with every file's hash is written last: one that a kill cut short has none and is passed over.
Checkpoints hold the weights that train, nothing else of the model.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pauserec.errors import PauserecError, RunError
from pauserec.evaluation.validation import METRIC
from pauserec.runs import processes
from pauserec.runs.files import MANIFEST, hashes, verify, write_atomically
from pauserec.training.sharding import copy_full, full, is_sharded, load_optimizer_state, optimizer_state

ELAPSED = "elapsed.json"
"""In each checkpoint: what its `Clock` says, and the number of processes that wrote it."""
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"
KEPT = 2
"""Whole checkpoints that are kept."""


@dataclass
class Clock:
    """Time and targets of a training so far, over all attempts.

    begin: when it would have begun, had it never been interrupted. aside: seconds of validating and saving.
    progress: how far the learning rate's schedule is, where time shortens it; None where it goes by steps.
    """

    begin: float = field(default_factory=time.perf_counter)
    aside: float = 0.0
    targets: float = 0.0
    progress: float | None = None

    def seconds(self) -> float:
        """Training time so far, validating and saving included."""
        return time.perf_counter() - self.begin


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole. Broken ones, left by a kill in the middle of a save, are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        try:
            manifest = orjson.loads((path / MANIFEST).read_bytes())
            verify(path, manifest)
        except (FileNotFoundError, orjson.JSONDecodeError, PauserecError):
            shutil.rmtree(path)
        else:
            whole.append(path)
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path | None) -> int:
    """The optimizer step that a checkpoint was written after."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def write_checkpoint(
    folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, clock: Clock
) -> None:
    """Save what going on after `step` needs, the manifest last; of earlier checkpoints keep the newest. All processes do."""
    pause = time.perf_counter()
    path = folder / f"checkpoint-{step}"
    weights = trained_weights(module)
    state = optimizer_state(module, optimizer) if is_sharded(module) else optimizer.state_dict()
    if processes.is_main():
        path.mkdir(parents=True, exist_ok=True)
        save_file(weights, path / WEIGHTS)
        torch.save(state, path / OPTIMIZER)
    processes.barrier()  # the folder is there
    torch.save(_random_state(), path / _random_file())
    processes.barrier()  # each process wrote its random state
    if processes.is_main():
        aside = clock.aside + time.perf_counter() - pause
        elapsed = {"seconds": clock.seconds(), "aside": aside, "targets": clock.targets, "progress": clock.progress}
        write_atomically(path / ELAPSED, orjson.dumps(elapsed | {"processes": processes.world()}))
        write_atomically(path / MANIFEST, orjson.dumps(hashes(path)))
        for older in sorted(folder.glob("checkpoint-*"), key=step_of)[:-KEPT]:
            shutil.rmtree(older)
    clock.aside += time.perf_counter() - pause


def read_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Clock:
    """Put weights, optimizer and random state back as they were, and give the clock.

    Raises RunError if another number of processes wrote it, or a version whose model has other parameters.
    """
    elapsed = orjson.loads((path / ELAPSED).read_bytes())
    if elapsed["processes"] != processes.world():
        raise RunError(
            f"{path} was written by {elapsed['processes']} processes and this run has {processes.world()}: start as "
            f"many, or delete {path.parent}"
        )
    try:
        load_trained(module, path / WEIGHTS)
    except KeyError as error:
        raise RunError(
            f"{path} has no weights named {error} (another version wrote it): delete {path.parent}, and run the same command "
            "to train anew"
        ) from None
    state = torch.load(path / OPTIMIZER, weights_only=True, map_location="cpu")
    state = _renamed(state, module, optimizer, by_name=is_sharded(module))
    if is_sharded(module):
        load_optimizer_state(module, optimizer, state)
    else:
        optimizer.load_state_dict(state)
    _set_random_state(path / _random_file())
    begin = time.perf_counter() - elapsed["seconds"]
    return Clock(begin, elapsed["aside"], elapsed["targets"], elapsed.get("progress"))


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, full, by name; tied ones once. Sharded ones are gathered, so all processes must ask."""
    named = [(name, full(p.detach())) for name, p in module.named_parameters() if p.requires_grad]
    return {name: weights.cpu().contiguous() for name, weights in named}


def load_trained(module: nn.Module, path: Path) -> None:
    """Put saved trained weights back."""
    saved = load_file(path)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            copy_full(parameter, saved[name])


def _renamed(
    state: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer, *, by_name: bool
) -> dict[str, Any]:
    """An optimizer's state with parameters by name, as sharded training keeps it, or by number, as other training does.

    So a stage goes on where its `sharding` changed in between.
    """
    if by_name == any(isinstance(parameter, str) for group in state["param_groups"] for parameter in group["params"]):
        return state
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    other: dict[Any, Any] = dict(enumerate(ordered)) if by_name else {name: n for n, name in enumerate(ordered)}
    return {
        "state": {other[key]: value for key, value in state["state"].items()},
        "param_groups": [
            group | {"params": [other[parameter] for parameter in group["params"]]} for group in state["param_groups"]
        ],
    }


def _random_file() -> str:
    return f"rng_state_{processes.rank()}.pth" if processes.world() > 1 else "rng_state.pth"


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(path: Path) -> None:
    # version 0.1's loop wrote NumPy's state beside torch's
    numpy_types: list[Any] = [np.zeros(0).__reduce__()[0], np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    with torch.serialization.safe_globals(numpy_types):
        state = torch.load(path, weights_only=True, map_location="cpu")
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and isinstance(state.get("cuda"), Tensor):
        torch.cuda.set_rng_state(state["cuda"])


class BestWeights:
    """The weights of the best validation, kept beside the checkpoints.

    Their file bears the validation's step in its name: after a crash the scores that count say which file does.
    Raises RunError where the weights of the best validation before `done` steps are lost.
    """

    def __init__(self, folder: Path, done: int, patience: int | None) -> None:
        self._folder, self._patience, self._saved = folder, patience, done
        self._scores_file = folder / "validations.json"
        self._scores: list[dict[str, float]] = []
        if self._scores_file.exists():
            known = orjson.loads(self._scores_file.read_bytes())
            self._scores = [score for score in known if score["step"] <= done]
        if self._scores and not self._file(self._best(self._scores)["step"]).exists():
            raise RunError(
                f"{folder} lacks the weights of its best validation (another version began it, or a file is lost): delete it, "
                "and run the same command to train this stage anew"
            )

    def add(self, step: int, metrics: dict[str, float], module: nn.Module) -> None:
        """A validation's metrics; where METRIC is the best yet, the module's weights are kept. All processes must do this."""
        best = max((score[METRIC] for score in self._scores), default=-1.0)
        if metrics[METRIC] > best:
            weights = trained_weights(module)
            if processes.is_main():
                temporary = self._folder / "best.tmp"
                save_file(weights, temporary)
                temporary.replace(self._file(step))
        self._scores.append({"step": step, **metrics})
        if processes.is_main():
            write_atomically(self._scores_file, orjson.dumps(self._scores))
            self._forget_worse()

    @property
    def begun(self) -> bool:
        """Whether there was a validation."""
        return bool(self._scores)

    def checkpointed(self, step: int) -> None:
        """A rerun will not go back behind this step."""
        self._saved = step

    def out_of_patience(self) -> bool:
        """Whether validation has not improved for as long as the settings allow."""
        if self._patience is None or not self._scores:
            return False
        return len(self._scores) - 1 - self._scores.index(self._best(self._scores)) >= self._patience

    def load(self, module: nn.Module) -> None:
        """Leave the weights with the best validation score in the module; without a validation, the last."""
        processes.barrier()
        if self._scores:
            load_trained(module, self._file(self._best(self._scores)["step"]))
        processes.barrier()

    def summary(self) -> dict[str, Any]:
        """The validations made and which of them was best."""
        if not self._scores:
            return {}
        best = self._best(self._scores)
        return {"best_step": best["step"], f"best_{METRIC}": best[METRIC], "validations": self._scores}

    @staticmethod
    def _best(scores: Sequence[dict[str, float]]) -> dict[str, float]:
        return max(scores, key=lambda score: (score[METRIC], -score["step"]))

    def _file(self, step: float) -> Path:
        return self._folder / f"best-{step:.0f}.safetensors"

    def _forget_worse(self) -> None:
        """Remove weights that are best neither now nor as of the newest checkpoint, from which a rerun would go on."""
        as_saved = [score for score in self._scores if score["step"] <= self._saved]
        needed = {self._file(self._best(scores)["step"]) for scores in (self._scores, as_saved) if scores}
        for file in self._folder.glob("best-*.safetensors"):
            if file not in needed:
                file.unlink()
