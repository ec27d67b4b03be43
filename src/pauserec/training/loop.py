"""The one training loop: planned or fresh batches, validation, checkpoints that survive kill -9.

accelerate brings devices, DDP, gradient clipping and trackers. Precision is torch's own autocast, because accelerate keeps
one precision per process and the stages of a run differ. Batches are asked for one optimizer step at a time, so that a
stage may make them from the weights of now (rollouts).
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pauserec.config import TrainingSettings
from pauserec.runs import processes
from pauserec.runs.device import best_device, forget_peak, peak_memory
from pauserec.runs.folder import RESUMING
from pauserec.runs.progress import StepBar
from pauserec.runs.steps import WATCHING
from pauserec.training.ahead import MadeAhead
from pauserec.training.batches import PlannedBatches, without_targets
from pauserec.training.checkpoints import (
    BestWeights,
    Clock,
    newest_checkpoint,
    read_checkpoint,
    step_of,
    write_checkpoint,
)
from pauserec.training.limits import SaveTimes, TimeLimit, Watch
from pauserec.training.optimizer import adamw, rate_factor
from pauserec.training.sharding import full, is_sharded, restore
from pauserec.training.trackers import check_trackers


def fit(
    module: nn.Module,
    batches: PlannedBatches,
    settings: TrainingSettings,
    *,
    out: Path,
    log: Callable[..., None],
    save: Callable[[Path], None] | None = None,
    bfloat16: bool = False,
    validate: Callable[[], dict[str, float]] | None = None,
    together: bool = True,
    guessing: float | None = None,
) -> dict[str, Any]:
    """Train `module` (forward(**batch) gives the loss summed over targets) and leave its best weights in it.

    validate: gives metrics with `validation_ndcg@10`, called at each epoch's end or every `validate_every` steps.
    save: called once, by the first process, with `out`. together: several processes share each optimizer step's
    batches, so that with N of them a step holds N times `accumulate` batches, and its loss is normalised by all their
    targets; otherwise each of them does what one alone would do.
    guessing: the loss of one who guesses; a loss above it after the warm-up stops the training (`stop_when_broken`).
    Resumes from `out`/training if there is something to resume from. Returns seconds, tokens, trainable_parameters, steps.
    Raises RunError where the checkpoint there is of another number of processes, or its best weights are lost;
    PauserecError when the loss is no number, or the training is broken.
    """
    folder = out / RESUMING
    folder.mkdir(exist_ok=True)
    forget_peak()
    training = _Training(module, batches, settings, out, bfloat16=bfloat16, together=together)
    training.watch = Watch(settings, training.steps, guessing)
    training.run(log, validate)
    seconds = training.clock.seconds()
    training.best.load(module)
    restore(module)
    summary = {
        "training_seconds": round(seconds, 3),
        "tokens": int(batches.tokens * training.step / training.steps),
        "targets": round(training.clock.targets),
        "tokens_per_second": round(training.tokens_per_second(), 1),
        "device_hours": round(seconds * processes.world() / 3600, 5),
        "peak_memory_bytes": max(processes.all_gather(peak_memory())),
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "steps": training.step,
        "planned_steps": training.steps,
        "ended_by": training.ended_by(),
        **training.best.summary(),
    }
    if "best_step" in summary:
        summary["best_epoch"] = training.epochs(summary["best_step"])
    if save is not None and processes.is_main():
        save(out)
    return summary


class _Step(NamedTuple):
    """What an optimizer step says of itself: its number, loss a target, norm of the gradient before it was cut, learning rate.

    Loss and norm stay on the device until somebody reads them: to read is to wait for it.
    """

    step: int
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float


LOGGED_ON_GPU = 10
"""Optimizer steps on a GPU after which losses are read, where the settings do not say."""


class _Training:
    """A module on its way through the batches."""

    def __init__(
        self,
        module: nn.Module,
        batches: PlannedBatches,
        settings: TrainingSettings,
        out: Path,
        *,
        bfloat16: bool,
        together: bool,
    ) -> None:
        from accelerate import Accelerator

        check_trackers([settings])  # accelerate would leave out what is not installed without a word
        self._module, self._batches, self._settings, self._folder = module, batches, settings, out / RESUMING
        self._bfloat16, self._shared = bfloat16, together and processes.world() > 1
        self._per_step = settings.accumulate * (processes.world() if self._shared else 1)
        self.steps = -(-len(batches) // self._per_step)
        self._accelerator = Accelerator(
            cpu=best_device().type == "cpu", log_with=list(settings.tracking) or None, project_dir=str(out / WATCHING)
        )
        wrap = self._shared and not is_sharded(module)
        self._wrapped = self._accelerator.prepare_model(module) if wrap else module.to(self._accelerator.device)
        self._optimizer = adamw(module, settings)
        torch.manual_seed(settings.seed)
        torch.empty((), dtype=torch.int64).random_()  # as a data loader did once: dropout draws what it always drew
        checkpoint = processes.broadcast(lambda: newest_checkpoint(self._folder))
        self.step = step_of(checkpoint)
        self.clock = read_checkpoint(checkpoint, module, self._optimizer) if checkpoint else Clock()
        self.best = BestWeights(self._folder, self.step, getattr(settings, "patience", None))
        self.time = TimeLimit(settings, self.steps, self.clock)
        self.watch = Watch(settings, self.steps, None)
        self._save_times = SaveTimes(settings)
        self._log_every = settings.log_every or (LOGGED_ON_GPU if self._accelerator.device.type == "cuda" else 1)
        self._unread: list[_Step] = []
        self._source: PlannedBatches | MadeAhead = batches
        if self._accelerator.device.type == "cuda" and getattr(batches, "known_ahead", False):
            self._source = MadeAhead(batches, list(self._numbers()), pinned=True)

    def run(self, log: Callable[..., None], validate: Callable[[], dict[str, float]] | None) -> None:
        """Do the steps that are left, until patience is over."""
        due = self._validation_steps() if validate is not None else set()
        if self._settings.tracking:
            self._accelerator.init_trackers("pauserec")
        with StepBar(self._settings.name, self.steps, self.step) as bar:
            if validate is not None and getattr(self._settings, "validate_start", False) and not self.best.begun:
                self._validate(validate, log)
            while not self.ended_by():
                self._unread.append(self._optimize())
                self.step += 1
                self.time.step_done(self.step)
                if validate is not None and (self.step in due or self.time.is_up()):
                    self._validate(validate, log)
                over = bool(self.ended_by())
                saving = over or self._save_times.due(self.step)
                if saving or self.step % self._log_every == 0:
                    self._report(log, bar)
                if saving:
                    write_checkpoint(self._folder, self.step, self._module, self._optimizer, self.clock)
                    self.best.checkpointed(self.step)
                    self._save_times.saved()
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def ended_by(self) -> Literal["", "steps", "patience", "time"]:
        """What ends the training now; empty where it goes on."""
        if self.step >= self.steps:
            return "steps"
        if self.best.out_of_patience():
            return "patience"
        return "time" if self.time.is_up() else ""

    def epochs(self, step: float) -> float:
        """Passes over the data that `step` optimizer steps are."""
        batches, ends = min(step * self._per_step, len(self._batches)), self._batches.epoch_ends
        whole = bisect_right(ends, batches)
        begin, share = ends[whole - 1] if whole else 0, 0.0
        if whole < len(ends):
            last = self._settings.epochs - (len(ends) - 1) if whole == len(ends) - 1 else 1.0
            share = last * (batches - begin) / (ends[whole] - begin)
        return round(min(whole + share, self._settings.epochs), 4)

    def tokens_per_second(self) -> float:
        """So far, over all attempts, all processes together, validating and saving left out."""
        seconds = self.clock.seconds() - self.clock.aside
        return float(self._batches.tokens / self.steps * self.step / seconds)

    def _optimize(self) -> _Step:
        """One optimizer step: the loss is summed over its batches and divided by all their targets."""
        world = processes.world() if self._shared else 1
        batches = [batch for place in range(self._settings.accumulate) if (batch := self._batch(place)) is not None]
        count = float(sum(batch.pop("count") for batch in batches))
        targets = sum(processes.all_gather(count)) if self._shared else count
        self._module.train()
        rate = self._settings.learning_rate * rate_factor(self._settings, self.time.scheduled(self.step), self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=self._accelerator.device)
        for place, batch in enumerate(batches):
            # sharded gradients are reduced with every batch, those of DDP with the last
            alone = self._shared and not is_sharded(self._module) and place < len(batches) - 1
            with self._accelerator.no_sync(self._wrapped) if alone else nullcontext():
                with torch.autocast(loss.device.type, torch.bfloat16, enabled=self._bfloat16):
                    part = self._wrapped(**self._on_device(batch))
                part = part / (targets / world)  # gradients are averaged over the processes
                self._accelerator.backward(part)
            loss += part.detach()
        norm = self._accelerator.clip_grad_norm_(self._module.parameters(), self._settings.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.clock.targets += targets
        return _Step(self.step + 1, loss, full(norm), rate)

    def _batch(self, place: int) -> dict[str, Any] | None:
        """A batch of the coming step, or None after the last.

        Of several processes each takes every `world`-th. Where batches run out, a batch without targets stands in: it adds
        nothing, but all processes take the same steps.
        """
        number = self._number(self.step, place)
        if number < len(self._batches):
            return dict(self._source[number])
        return without_targets(self._batches[0]) if self._shared else None

    def _number(self, step: int, place: int) -> int:
        """Which batch is a step's `place`-th of this process."""
        number = step * self._settings.accumulate + place
        return number * processes.world() + processes.rank() if self._shared else number

    def _numbers(self) -> Iterator[int]:
        """The batches that are still to come, in the order in which they are asked for."""
        for step in range(self.step, self.steps):
            numbers = (self._number(step, place) for place in range(self._settings.accumulate))
            yield from (number for number in numbers if number < len(self._batches))

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Arrays as tensors on the device, everything else as it is."""
        device = self._accelerator.device
        tensors = {key: torch.from_numpy(value) for key, value in batch.items() if isinstance(value, np.ndarray)}
        tensors |= {key: value for key, value in batch.items() if isinstance(value, Tensor)}
        return batch | {key: value.to(device, non_blocking=True) for key, value in tensors.items()}

    def _validation_steps(self) -> set[int]:
        every = getattr(self._settings, "validate_every", 0)
        if every:
            return {*range(every, self.steps + 1, every), self.steps}
        return {min(self.steps, -(-end // self._per_step)) for end in self._batches.epoch_ends}

    def _validate(self, validate: Callable[[], dict[str, float]], log: Callable[..., None]) -> None:
        pause = time.perf_counter()
        metrics = processes.all_gather(validate())[0]  # a tie may be broken otherwise on another GPU
        self._log(log, metrics, self.step)
        self.best.add(self.step, metrics, self._module)
        seconds = time.perf_counter() - pause
        self.clock.aside += seconds
        self.time.validated(seconds)

    def _report(self, log: Callable[..., None], bar: StepBar) -> None:
        """Write the losses not yet read. Raises PauserecError when one is no number, or says that the training is broken."""
        steps, self._unread = self._unread, []
        found = torch.stack([torch.stack([done.loss.float(), done.grad_norm.float()]) for done in steps]).tolist()
        everywhere = (
            processes.all_gather([loss for loss, _ in found]) if self._shared else [[loss for loss, _ in found]]
        )
        speed = round(self.tokens_per_second())
        for done, (_, norm), losses in zip(steps, found, zip(*everywhere, strict=True), strict=True):
            loss = sum(losses) / len(losses)
            self.watch.look(done.step, loss)
            bar.show(done.step, loss)
            values = {"loss": loss, "grad_norm": norm, "learning_rate": done.learning_rate, "tokens_per_second": speed}
            self._log(log, values, done.step)

    def _log(self, log: Callable[..., None], values: dict[str, float], step: int) -> None:
        log(global_step=step, **values)
        if self._settings.tracking:
            self._accelerator.log({f"train/{key}": value for key, value in values.items()}, step=step)
