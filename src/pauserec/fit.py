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
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from pauserec.config import TrainingSettings
from pauserec.errors import PauserecError
from pauserec.run import MANIFEST, hashes, verify, write_atomically
from pauserec.watch import Watch, load_trained, peak_memory, trained_weights

FOLDER = "training"
"""Where a stage keeps checkpoints while it runs; removed once its result is saved."""
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
    watch = Watch(trainer, settings, folder, log, validate, schedule, resume_step=_step_of(resume), steps=steps)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    earlier = float(orjson.loads((resume / ELAPSED).read_bytes())) if resume else 0.0
    trainer.begin = time.perf_counter() - earlier
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = trainer.seconds()
    watch.load_best(module)
    step = trainer.state.global_step
    return {
        "training_seconds": round(seconds, 3),
        "tokens": int(batches.tokens * step / steps),
        "targets": round(trainer.targets * step / max(1, step - _step_of(resume))),
        "tokens_per_second": round(watch.tokens_per_second(batches.tokens / steps), 1),
        "peak_memory_bytes": peak_memory(),
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "steps": step,
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
    targets = 0.0
    """Targets of this attempt's steps."""

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
        self.targets += float(total)
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
