"""The one training loop: transformers' Trainer over planned batches, with checkpoints that survive kill -9.

The Trainer's own checkpoints are not crash-safe: a save cut short leaves a folder that looks newest and cannot be loaded.
Here a manifest with every file's hash is written last, and a run resumes from the newest checkpoint whose manifest holds.
The best weights by validation are kept beside them and are what training ends with.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from pauserec.config import TrainingSettings
from pauserec.errors import PauserecError, RecipeError, RunError
from pauserec.runs import processes
from pauserec.runs.device import forget_peak, peak_memory
from pauserec.runs.files import MANIFEST, hashes, verify, write_atomically
from pauserec.runs.folder import RESUMING
from pauserec.training.batches import IGNORE
from pauserec.training.sharding import is_sharded, load_optimizer_state, optimizer_state, restore
from pauserec.training.watch import Size, TimedTrainer, Watch, load_trained, trained_weights

ELAPSED = "elapsed.json"
"""In each checkpoint: seconds (and those of validation) and targets that led to it, over all attempts, and processes."""


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
    save: Callable[[Path], None] | None = None,
    bfloat16: bool = False,
    validate: Callable[[], dict[str, float]] | None = None,
    together: bool = True,
) -> dict[str, Any]:
    """Train `module` (forward(**batch) gives the loss summed over targets) and leave its best weights in it.

    validate: gives metrics with `validation_ndcg@10`, called at each epoch's end or every `validate_every` steps.
    save: called once, by the first process, with `out`. together: several processes share each optimizer step's
    batches, so that with N of them a step holds N times `accumulate` batches, and its loss is normalised by all their
    targets; otherwise each of them does what one alone would do.
    Resumes from `out`/training if there is something to resume from. Returns seconds, tokens, trainable_parameters, steps.
    Raises RunError where the checkpoint there is of another number of processes, or its best weights are lost.
    """
    folder = out / RESUMING
    folder.mkdir(exist_ok=True)
    forget_peak()
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    shared = together and processes.world() > 1
    per_step = settings.accumulate * (processes.world() if shared else 1)
    steps = -(-len(batches) // per_step)
    trainer = _Trainer(
        model=module,
        args=_arguments(settings, folder, steps, bfloat16),
        train_dataset=_Share(batches, steps * settings.accumulate) if shared else batches,
        data_collator=_only,
    )
    # its name for: do not wrap the model in DDP
    trainer.is_distributed_loading_by_transformers = not together or is_sharded(module)
    resume = processes.broadcast(lambda: newest_checkpoint(folder))
    size = Size(steps, done=_step_of(resume), tokens=batches.tokens)
    watch = Watch(trainer, settings, folder, log, validate, _validation_steps(batches, settings, steps, per_step), size)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    trainer.go(resume, over=watch.out_of_patience())
    seconds = trainer.seconds()
    watch.load_best(module)
    restore(module)
    summary = {
        "training_seconds": round(seconds, 3),
        "tokens": int(batches.tokens * trainer.state.global_step / steps),
        "targets": round(trainer.targets),
        "tokens_per_second": round(watch.tokens_per_second(), 1),
        "device_hours": round(seconds * processes.world() / 3600, 5),
        "peak_memory_bytes": max(processes.all_gather(peak_memory())),
        "trainable_parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
        **watch.summary(),
    }
    if save is not None and processes.is_main():
        save(out)
    return summary


def check_trackers(stages: Iterable[TrainingSettings]) -> None:
    """Raise RecipeError, before anything is done, where a stage names a tracker that is unknown or not installed."""
    installed = get_available_reporting_integrations()
    for stage in stages:
        for name in stage.tracking:
            if name not in INTEGRATION_TO_CALLBACK:
                known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
                raise RecipeError(f"{stage.name}: tracking knows no {name!r}, only {known}")
            if name not in installed:
                raise RecipeError(f"{stage.name}: the tracker {name!r} is not installed: install it, or leave it out")


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


def _earlier(checkpoint: Path) -> dict[str, float]:
    """What led to a checkpoint. Raises RunError if other processes than these would go on from it."""
    content: dict[str, float] = orjson.loads((checkpoint / ELAPSED).read_bytes())
    if content["processes"] != processes.world():
        raise RunError(
            f"{checkpoint} was written by {content['processes']} processes and this run has {processes.world()}: start as "
            f"many, or delete {checkpoint.parent}"
        )
    return content


class _Share(Dataset[dict[str, Any]]):
    """This process's part of the batches: every `world`-th, and as many as the others have.

    Where batches run out, a batch without targets stands in: it adds nothing, but all processes take the same steps.
    """

    def __init__(self, batches: PlannedBatches, count: int) -> None:
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = number * processes.world() + processes.rank()
        if place < len(self._batches):
            return self._batches[place]
        batch = self._batches[0]
        return batch | {"labels": np.full_like(batch["labels"], IGNORE), "count": 0}


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _only(batch: list[dict[str, Any]]) -> dict[str, Any]:
    (planned,) = batch
    return {key: torch.from_numpy(value) if hasattr(value, "dtype") else value for key, value in planned.items()}


def _arguments(settings: TrainingSettings, folder: Path, steps: int, bfloat16: bool) -> TrainingArguments:
    arguments = TrainingArguments(
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
        ddp_find_unused_parameters=False,
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
    # with several GPUs and one process, Trainer would cut the flat row of tokens in pieces (DataParallel)
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _validation_steps(batches: PlannedBatches, settings: TrainingSettings, steps: int, per_step: int) -> set[int]:
    every = getattr(settings, "validate_every", 0)
    if every:
        return {*range(every, steps + 1, every), steps}
    return {min(steps, -(-end // per_step)) for end in batches.epoch_ends}


class _Trainer(TimedTrainer):
    """Sequential planned batches; a loss normalised by the targets of the whole optimizer step; trained weights saved."""

    loss_is_scaled_for_ga = True
    targets = 0.0
    """Targets so far, over all attempts and processes."""

    def go(self, resume: Path | None, *, over: bool) -> None:
        """Train, from a checkpoint on if there is one; `over`: it was the last, and only the result was not saved yet."""
        earlier = _earlier(resume) if resume else {}
        self.begin, self.targets = time.perf_counter() - earlier.get("seconds", 0.0), earlier.get("targets", 0.0)
        self.aside = earlier.get("aside", 0.0)
        if over:
            self.state.global_step = _step_of(resume)
        else:
            self.train(resume_from_checkpoint=str(resume) if resume else None)

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        return nullcontext()  # every micro-batch's gradients are reduced; the Trainer's way wants its own kind of model

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset, batch_size=1, collate_fn=self.data_collator, shuffle=False
        )
        # of several processes each has its own batches already
        return loader if processes.world() > 1 else self.accelerator.prepare(loader)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        total = sum(processes.all_gather(float(sum(batch["count"] for batch in batch_samples))))
        self.targets += total
        return torch.tensor(total / processes.world(), device=device)  # gradients are averaged over the processes

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
        weights = trained_weights(self.model)
        if processes.is_main():
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint) / "model.safetensors")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if is_sharded(self.model):
            state = optimizer_state(self.model, self.optimizer.optimizer)
            if processes.is_main():
                torch.save(state, Path(output_dir) / "optimizer.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / "optimizer.pt", weights_only=True)
        load_optimizer_state(self.model, self.optimizer.optimizer, state)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        pause = time.perf_counter()
        super()._save_checkpoint(model, trial)
        processes.barrier()  # each process wrote its random state
        if processes.is_main():
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            aside = self.aside + time.perf_counter() - pause
            elapsed = {"seconds": self.seconds(), "aside": aside, "targets": self.targets}
            elapsed["processes"] = processes.world()
            write_atomically(folder / ELAPSED, orjson.dumps(elapsed))
            write_atomically(folder / MANIFEST, orjson.dumps(hashes(folder)))
        self.aside += time.perf_counter() - pause
