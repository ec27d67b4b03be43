"""What happens beside the steps of training: progress, the metric log, validation, the best weights, early stopping."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from pauserec import parallel
from pauserec.config import TrainingSettings
from pauserec.errors import PauserecError
from pauserec.evaluation.validation import METRIC
from pauserec.run import write_atomically
from pauserec.sharding import fill, whole


def peak_memory() -> int:
    """Most bytes held so far: of the GPU, or resident in this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, whole, by name; tied ones once."""
    named = [(name, whole(p.detach())) for name, p in module.named_parameters() if p.requires_grad]
    return {name: weights.cpu().contiguous() for name, weights in named}


def load_trained(module: nn.Module, path: Path) -> None:
    """Put saved trained weights back."""
    saved = load_file(path)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            fill(parameter, saved[name])


@dataclass(frozen=True)
class Size:
    """How long a stage is, in optimizer steps and tokens, and how many steps are done already."""

    steps: int
    done: int
    tokens: int


class Watch(TrainerCallback):  # type: ignore[misc]
    """Told by the Trainer what happens; validates at the steps of `schedule`."""

    def __init__(
        self,
        trainer: Trainer,
        settings: TrainingSettings,
        folder: Path,
        log: Callable[..., None],
        validate: Callable[[], dict[str, float]] | None,
        schedule: set[int],
        size: Size,
    ) -> None:
        self._trainer, self._settings, self._log = trainer, settings, log
        self._tokens_per_step = size.tokens / size.steps
        self._validate, self._schedule = validate, schedule
        self._best_file, self._scores_file = folder / "best.safetensors", folder / "validations.json"
        self._scores: list[dict[str, float]] = []
        self._begin, self._validating, self._first_step, self._steps_done = time.perf_counter(), 0.0, size.done, 0
        if self._scores_file.exists():
            known = orjson.loads(self._scores_file.read_bytes())
            self._scores = [score for score in known if score["step"] <= size.done]
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(f"{settings.name:<16}", total=size.steps, completed=size.done, loss="")

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Show the bar."""
        if parallel.is_main():
            self._bar.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write a step's loss. Raises PauserecError when it is not a number."""
        if logs and "loss" in logs:
            if not logs["loss"] == logs["loss"]:
                raise PauserecError(
                    f"stage {self._settings.name!r}: the loss is not a number at step {state.global_step}: lower learning_rate"
                )
            self._bar.update(self._task, completed=state.global_step, loss=f"loss {logs['loss']:.3f}")
            self._steps_done = state.global_step - self._first_step
            speed = round(self.tokens_per_second())
            kept = {key: value for key, value in logs.items() if key != "epoch"}
            self._log(global_step=state.global_step, **kept, tokens_per_second=speed)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate where it is due, keep the best weights, stop when patience is over."""
        if self._validate is None or state.global_step not in self._schedule:
            return
        pause = time.perf_counter()
        metrics = self._validate()
        self._validating += time.perf_counter() - pause
        self._trainer.model.train()
        self._log(global_step=state.global_step, **metrics)
        best = max((score[METRIC] for score in self._scores), default=-1.0)
        if metrics[METRIC] > best:
            weights = trained_weights(self._trainer.model)
            if parallel.is_main():
                temporary = self._best_file.with_suffix(".tmp")
                save_file(weights, temporary)
                temporary.replace(self._best_file)
        self._scores.append({"step": state.global_step, **metrics})
        if parallel.is_main():
            write_atomically(self._scores_file, orjson.dumps(self._scores))
        patience = getattr(self._settings, "patience", None)
        if patience is not None and self._since_best() >= patience:
            control.should_training_stop = True

    def tokens_per_second(self) -> float:
        """Of this attempt so far, all processes together, validation left out."""
        return self._tokens_per_step * self._steps_done / (time.perf_counter() - self._begin - self._validating)

    def load_best(self, module: nn.Module) -> None:
        """Leave the weights with the best validation score in the module."""
        parallel.wait()
        if self._scores:
            load_trained(module, self._best_file)
        parallel.wait()

    def summary(self) -> dict[str, Any]:
        """The validations made and which of them was best."""
        if not self._scores:
            return {}
        best = max(self._scores, key=lambda score: (score[METRIC], -score["step"]))
        return {"best_step": best["step"], f"best_{METRIC}": best[METRIC], "validations": self._scores}

    def _since_best(self) -> int:
        scores = [score[METRIC] for score in self._scores]
        return len(scores) - 1 - scores.index(max(scores))
