"""The one training loop: transformers' Trainer over planned batches, with checkpoints that survive kill -9.

The Trainer's own checkpoints are not crash-safe: a save cut short leaves a folder that looks newest and cannot be loaded.
Here a manifest with every file's hash is written last, and a run resumes from the newest checkpoint whose manifest holds.
The best weights by validation are kept beside them and are what training ends with.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import orjson
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pauserec.config import TrainingSettings
from pauserec.errors import PauserecError
from pauserec.run import MANIFEST, hashes, verify, write_atomically

FOLDER = "training"
"""Where a stage keeps checkpoints while it runs; removed once its result is saved."""
METRIC = "validation_ndcg@10"
ELAPSED = "elapsed.json"
"""In each checkpoint: seconds of training that led to it, over all attempts."""


class PlannedBatches(Protocol):
    """All batches of a run, by number; each is the keyword arguments of the module's forward, plus `count` targets."""

    epoch_ends: list[int]
    tokens: int

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> dict[str, Any]: ...


def fit(
    module: nn.Module,
    batches: PlannedBatches,
    settings: TrainingSettings,
    *,
    out: Path,
    log: Callable[..., None],
    bfloat16: bool = False,
    validate: Callable[[], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Train `module` (forward(**batch) gives the loss summed over targets) and leave its best weights in it.

    validate: gives metrics with `validation_ndcg@10`, called at each epoch's end or every `validate_every` steps.
    Resumes from `out`/training if there is something to resume from. Returns seconds, tokens, trainable_parameters, steps.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    steps = -(-len(batches) // settings.accumulate)
    trainer = _Trainer(
        model=module,
        args=_arguments(settings, folder, steps, bfloat16),
        train_dataset=batches,
        data_collator=_only,
    )
    resume = newest_checkpoint(folder)
    schedule = _validation_steps(batches, settings, steps)
    watch = _Watch(trainer, settings, folder, log, validate, schedule, resume_step=_step_of(resume), steps=steps)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    earlier = float(orjson.loads((resume / ELAPSED).read_bytes())) if resume else 0.0
    trainer.begin = time.perf_counter() - earlier
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = trainer.seconds()
    watch.load_best(module)
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    done = trainer.state.global_step / steps
    return {
        "training_seconds": round(seconds, 3),
        "tokens": int(batches.tokens * done),
        "trainable_parameters": trainable,
        "steps": trainer.state.global_step,
        **watch.summary(),
    }


def forget_checkpoints(out: Path) -> None:
    """Remove what only resuming needs; call once the stage's result is saved."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


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
    return max(whole, key=_step_of, default=None)


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _only(batch: list[dict[str, Any]]) -> dict[str, Any]:
    (planned,) = batch
    return {key: torch.from_numpy(value) if hasattr(value, "dtype") else value for key, value in planned.items()}


def _arguments(settings: TrainingSettings, folder: Path, steps: int, bfloat16: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.accumulate,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * steps),
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=bfloat16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        report_to=list(settings.tracking),
        seed=settings.seed,
        data_seed=settings.seed,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )


def _validation_steps(batches: PlannedBatches, settings: TrainingSettings, steps: int) -> set[int]:
    every = getattr(settings, "validate_every", 0)
    if every:
        return {*range(every, steps + 1, every), steps}
    return {min(steps, -(-end // settings.accumulate)) for end in batches.epoch_ends}


class _Trainer(Trainer):  # type: ignore[misc]
    """Sequential planned batches; a loss normalised by the targets of the whole optimizer step; trained weights saved."""

    loss_is_scaled_for_ga = True
    begin = 0.0
    """When training would have begun, had it never been interrupted."""

    def seconds(self) -> float:
        """Training time so far, over all attempts."""
        return time.perf_counter() - self.begin

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset, batch_size=1, collate_fn=self.data_collator, shuffle=False
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        total = torch.tensor(float(sum(batch["count"] for batch in batch_samples)), device=device)
        if self.args.world_size > 1:
            total = self.accelerator.gather(total).sum() / self.args.world_size
        return total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        loss: Tensor = model(**{key: value for key, value in inputs.items() if key != "count"})
        return loss / (inputs["count"] if num_items_in_batch is None else num_items_in_batch)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.model), folder / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint) / "model.safetensors")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        write_atomically(folder / ELAPSED, orjson.dumps(self.seconds()))
        write_atomically(folder / MANIFEST, orjson.dumps(hashes(folder)))


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, by name; tied ones once."""
    return {name: p.detach().cpu().contiguous() for name, p in module.named_parameters() if p.requires_grad}


def load_trained(module: nn.Module, path: Path) -> None:
    """Put saved trained weights back."""
    saved = load_file(path)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(saved[name])


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Progress, metric log, validation and early stopping."""

    def __init__(
        self,
        trainer: Trainer,
        settings: TrainingSettings,
        folder: Path,
        log: Callable[..., None],
        validate: Callable[[], dict[str, float]] | None,
        schedule: set[int],
        *,
        resume_step: int,
        steps: int,
    ) -> None:
        self._trainer, self._settings, self._log = trainer, settings, log
        self._validate, self._schedule = validate, schedule
        self._best_file, self._scores_file = folder / "best.safetensors", folder / "validations.json"
        self._scores: list[dict[str, float]] = []
        if self._scores_file.exists():
            known = orjson.loads(self._scores_file.read_bytes())
            self._scores = [score for score in known if score["step"] <= resume_step]
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(f"{settings.name:<16}", total=steps, completed=resume_step, loss="")

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._bar.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._bar.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            if not logs["loss"] == logs["loss"]:
                raise PauserecError(
                    f"stage {self._settings.name!r}: the loss is not a number at step {state.global_step}: lower learning_rate"
                )
            self._bar.update(self._task, completed=state.global_step, loss=f"loss {logs['loss']:.3f}")
            self._log(global_step=state.global_step, **{k: v for k, v in logs.items() if k != "epoch"})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._validate is None or state.global_step not in self._schedule:
            return
        metrics = self._validate()
        self._trainer.model.train()
        self._log(global_step=state.global_step, **metrics)
        best = max((score[METRIC] for score in self._scores), default=-1.0)
        if metrics[METRIC] > best:
            temporary = self._best_file.with_suffix(".tmp")
            save_file(trained_weights(self._trainer.model), temporary)
            temporary.replace(self._best_file)
        self._scores.append({"step": state.global_step, **metrics})
        write_atomically(self._scores_file, orjson.dumps(self._scores))
        patience = getattr(self._settings, "patience", None)
        if patience is not None and self._since_best() >= patience:
            control.should_training_stop = True

    def load_best(self, module: nn.Module) -> None:
        """Leave the weights with the best validation score in the module."""
        if self._scores:
            load_trained(module, self._best_file)

    def summary(self) -> dict[str, Any]:
        """The validations made and which of them was best."""
        if not self._scores:
            return {}
        best = max(self._scores, key=lambda score: (score[METRIC], -score["step"]))
        return {"best_step": best["step"], f"best_{METRIC}": best[METRIC], "validations": self._scores}

    def _since_best(self) -> int:
        scores = [score[METRIC] for score in self._scores]
        return len(scores) - 1 - scores.index(max(scores))
