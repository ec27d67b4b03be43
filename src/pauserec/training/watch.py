"""What happens beside the steps of training: progress, the metric log, validation, the best weights, early stopping."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from pauserec.config import TrainingSettings
from pauserec.errors import PauserecError, RunError
from pauserec.evaluation.validation import METRIC
from pauserec.runs import processes
from pauserec.runs.files import write_atomically
from pauserec.training.sharding import copy_full, full


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, whole, by name; tied ones once."""
    named = [(name, full(p.detach())) for name, p in module.named_parameters() if p.requires_grad]
    return {name: weights.cpu().contiguous() for name, weights in named}


def load_trained(module: nn.Module, path: Path) -> None:
    """Put saved trained weights back."""
    saved = load_file(path)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            copy_full(parameter, saved[name])


@dataclass(frozen=True)
class Size:
    """How long a stage is, in optimizer steps and tokens, and how many steps are done already."""

    steps: int
    done: int
    tokens: int


class TimedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that knows its time over all attempts."""

    begin = 0.0
    """When training would have begun, had it never been interrupted."""
    aside = 0.0
    """Seconds of validating and saving so far."""

    def seconds(self) -> float:
        """Training time so far, validating and saving included."""
        return time.perf_counter() - self.begin


class Watch(TrainerCallback):  # type: ignore[misc]
    """Told by the Trainer what happens; validates at the steps of `schedule`.

    The weights of a best validation bear its step in their name: after a crash the scores that count say which file does.
    """

    def __init__(
        self,
        trainer: TimedTrainer,
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
        self._folder, self._scores_file = folder, folder / "validations.json"
        self._scores: list[dict[str, float]] = []
        self._saved = size.done
        if self._scores_file.exists():
            known = orjson.loads(self._scores_file.read_bytes())
            self._scores = [score for score in known if score["step"] <= size.done]
        if self._scores and not self._best_file(self._best(self._scores)["step"]).exists():
            raise RunError(
                f"{folder} lacks the weights of its best validation (another version began it, or a file is lost): delete it, "
                "and run the same command to train this stage anew"
            )
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
        if processes.is_main():
            self._bar.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write a step's loss. Raises PauserecError when it is not a number."""
        if logs and "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise PauserecError(
                    f"stage {self._settings.name!r}: the loss is not a number at step {state.global_step}: lower learning_rate"
                )
            self._bar.update(self._task, completed=state.global_step, loss=f"loss {logs['loss']:.3f}")
            kept = {key: value for key, value in logs.items() if key != "epoch"}
            self._log(global_step=state.global_step, **kept, tokens_per_second=round(self.tokens_per_second()))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate where it is due, keep the best weights, stop when patience is over."""
        if self._validate is None or state.global_step not in self._schedule:
            return
        pause = time.perf_counter()
        metrics = processes.all_gather(self._validate())[0]  # a tie may be broken otherwise on another GPU
        self._trainer.model.train()
        self._log(global_step=state.global_step, **metrics)
        best = max((score[METRIC] for score in self._scores), default=-1.0)
        if metrics[METRIC] > best:
            weights = trained_weights(self._trainer.model)
            if processes.is_main():
                temporary = self._folder / "best.tmp"
                save_file(weights, temporary)
                temporary.replace(self._best_file(state.global_step))
        self._scores.append({"step": state.global_step, **metrics})
        if processes.is_main():
            write_atomically(self._scores_file, orjson.dumps(self._scores))
            self._forget_worse()
        self._trainer.aside += time.perf_counter() - pause
        if self.out_of_patience():
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A rerun will not go back behind this step."""
        self._saved = state.global_step

    def out_of_patience(self) -> bool:
        """Whether validation has not improved for as long as the settings allow."""
        patience = getattr(self._settings, "patience", None)
        if patience is None or not self._scores:
            return False
        since: int = len(self._scores) - 1 - self._scores.index(self._best(self._scores))
        return since >= int(patience)

    def tokens_per_second(self) -> float:
        """So far, over all attempts, all processes together, validating and saving left out."""
        seconds = self._trainer.seconds() - self._trainer.aside
        return float(self._tokens_per_step * self._trainer.state.global_step / seconds)

    def load_best(self, module: nn.Module) -> None:
        """Leave the weights with the best validation score in the module."""
        processes.barrier()
        if self._scores:
            load_trained(module, self._best_file(self._best(self._scores)["step"]))
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

    def _best_file(self, step: float) -> Path:
        return self._folder / f"best-{step:.0f}.safetensors"

    def _forget_worse(self) -> None:
        """Remove weights that are best neither now nor as of the newest checkpoint, from which a rerun would go on."""
        as_saved = [score for score in self._scores if score["step"] <= self._saved]
        needed = {self._best_file(self._best(scores)["step"]) for scores in (self._scores, as_saved) if scores}
        for file in self._folder.glob("best-*.safetensors"):
            if file not in needed:
                file.unlink()
