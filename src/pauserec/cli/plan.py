"""What a recipe would do and cost, before it does it: steps, tokens per stage, time, memory and disk.

Data and tokenizer are read for real, so the token counts are exact; IDs are stand-ins of the right shape. Time follows
from the floating-point work and this machine's measured matrix rate.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table

from pauserec.assets import named
from pauserec.config import Recipe, Settings, Stage
from pauserec.data.dataset import load_dataset, prepare
from pauserec.llm.model import positions_of
from pauserec.llm.pretrained import shape_and_tokenizer
from pauserec.llm.rate import matrix_rate
from pauserec.llm.vocabulary import grow_tokenizer
from pauserec.pipeline import check_before, fingerprints_before
from pauserec.pipeline import steps as all_steps
from pauserec.runs.device import best_device, resident_memory, use_bfloat16
from pauserec.runs.folder import Run
from pauserec.runs.steps import FinishedStep, StepFunction, contents_of
from pauserec.semantic_ids.quantize import stand_in_ids
from pauserec.stages import STAGES
from pauserec.stages.kind import Sight
from pauserec.training.losses import POSITIONS_AT_ONCE

EFFICIENCY = 0.5
"""Share of the matrix rate that training reaches, by experience; attention and small operations take the rest."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: tokens over all epochs, seconds, peak bytes of memory, bytes on disk when done."""

    name: str
    tokens: int
    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True)
class Plan:
    """A recipe's plan."""

    data: tuple[int, int, int]
    parameters: int
    steps: tuple[tuple[str, bool], ...]
    stages: tuple[StagePlan, ...]
    unplanned: tuple[str, ...] = ()
    """Baselines that would train, of whose cost nothing is said."""
    taken: tuple[str, ...] = ()
    """Finished steps that would be taken over from other run folders."""
    again: tuple[tuple[str, str], ...] = ()
    """Finished steps that would be done again, and why."""

    def table(self) -> Table:
        """Stages with tokens, time, memory and disk."""
        table = Table("stage", "tokens", "time", "memory", "disk")
        for column in table.columns[1:]:
            column.justify = "right"
        for stage in self.stages:
            size = (f"{stage.memory / 1e9:.1f} GB", f"{stage.disk / 1e9:.1f} GB")
            table.add_row(stage.name, f"{stage.tokens:,}", _duration(stage.seconds), *size)
        return table

    def totals(self) -> str:
        """The data's size, the steps to run, and the sums."""
        users, items, interactions = self.data
        waiting = [name for name, done in self.steps if not done]
        done = [name for name, done in self.steps if done and name not in self.taken]
        taken = f"\ntaken over: {', '.join(self.taken)}" if self.taken else ""
        taken += "".join(f"\n{name} would be done again: {why}" for name, why in self.again)
        return (
            f"data: {users:,} users / {items:,} items / {interactions:,} interactions\n"
            + (f"model: {self.parameters / 1e6:,.1f}M parameters\n" if self.stages else "")
            + f"would run: {', '.join(waiting) or 'nothing'}\n"
            f"done already: {', '.join(done) or 'nothing'}" + taken + self._cost()
        )

    def _cost(self) -> str:
        text = ""
        waiting = {name for name, done in self.steps if not done}
        stages = [stage for stage in self.stages if stage.name in waiting]
        if stages:
            text += (
                f"\ntraining {', '.join(stage.name for stage in stages)}: "
                f"{sum(stage.tokens for stage in stages):,} tokens, about "
                f"{_duration(sum(stage.seconds for stage in stages))}, "
                f"up to {max(stage.memory for stage in stages) / 1e9:.1f} GB of memory, "
                f"{sum(stage.disk for stage in stages) / 1e9:.1f} GB on disk"
            )
        if self.unplanned:
            text += f"\nnot estimated: training {', '.join(self.unplanned)}"
        return text


def make_plan(recipe: Recipe, out: Path, redo: tuple[str, ...], reuse: tuple[Path, ...] = ()) -> Plan:
    """Plan a recipe without running it; nothing is written to `out`. Raises PauserecError like the run itself."""
    check_before(recipe, out, redo, reuse)
    with tempfile.TemporaryDirectory() as folder:
        prepare(recipe.data, out=Path(folder), log=lambda **_: None)
        dataset = load_dataset(Path(folder))
    counts = (len(dataset.users), len(dataset.items), dataset.interactions)
    walked = _DryRun(out, recipe, frozenset(redo))
    walked.before, walked.reuse = fingerprints_before(out), reuse
    all_steps(walked)
    steps = tuple(walked.done.items())
    waiting = [name for name, done in steps if not done]
    unplanned = tuple(baseline.name for baseline in recipe.baselines if baseline.name in waiting)
    if not recipe.stages:
        return Plan(counts, 0, steps, (), unplanned, tuple(walked.taken), tuple(walked.again.items()))
    source = named.model_path(recipe.model.name, weights=False)
    shape, tokenizer = shape_and_tokenizer(recipe.model, source)
    ids = stand_in_ids(recipe.quantizer, len(dataset.items))
    vocabulary = grow_tokenizer(tokenizer, ids)
    shape.vocab_size = vocabulary.used
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    parameters = sum(p.numel() for p in model.parameters())
    table = vocabulary.used * shape.hidden_size
    untied = 1 if shape.tie_word_embeddings else 2
    width = shape.hidden_size * shape.num_hidden_layers
    cost = _Cost(recipe, parameters, parameters - untied * table, table, width, vocabulary.used)
    sight = Sight(dataset, ids, tokenizer, vocabulary, positions_of(shape))
    stages = tuple(cost.stage(stage, *STAGES[stage.kind].tokens(stage.job(recipe), sight)) for stage in recipe.stages)
    return Plan(counts, parameters, steps, stages, unplanned, tuple(walked.taken), tuple(walked.again.items()))


class _DryRun(Run):
    """Finds out of each step whether it is done, and does nothing."""

    def __init__(self, path: Path, recipe: Recipe, redo: frozenset[str]) -> None:
        super().__init__(path, recipe, redo)
        self.done: dict[str, bool] = {}
        self.taken: list[str] = []
        self.again: dict[str, str] = {}

    def step(
        self,
        name: str,
        function: StepFunction,
        settings: Settings | None,
        *inputs: FinishedStep,
        collective: bool = False,
        files: tuple[Path, ...] = (),
    ) -> FinishedStep:
        """The step as it stands, or as it would be named: only what is made from finished steps can be done."""
        counted = self.counted(name, settings, inputs)
        ready = all(self.done[step.name] for step in inputs)
        self.done[name] = ready and self.is_done(name, settings, inputs, files)
        if self.done[name]:
            return replace(self.finished(name), counted=counted)
        if (self.path / name).exists():
            why = self._why_again(name, counted, contents_of(inputs, files)) if ready else ""
            self.again[name] = why or "what it is made from is made again"
        if ready and (other := self.elsewhere(name, counted, contents_of(inputs, files))):
            self.done[name] = True
            self.taken.append(name)
            self.again.pop(name, None)
            return replace(Run(other, self.recipe).finished(name), counted=counted)
        return FinishedStep(name, self.path / name, counted.now, {}, counted=counted)


@dataclass(frozen=True)
class _Cost:
    """Floating-point work and bytes.

    parameters: all; backbone: without the tables; table: one table; width: D x layers; vocabulary: rows of a table.
    """

    recipe: Recipe
    parameters: int
    backbone: int
    table: int
    width: int
    vocabulary: int

    def stage(self, stage: Stage, tokens: int, targets: int) -> StagePlan:
        rows_only, full = stage.rows_only, stage.code_softmax != "codebook"
        passes = 4 if rows_only else 6
        work = passes * (tokens * self.backbone + (targets * self.table if full else 0))
        device = best_device()
        seconds = work / (matrix_rate(device, use_bfloat16(self.recipe.model, device)) * EFFICIENCY)
        disk = 4.0 * self.parameters if stage.gives == "model" else 4e4
        return StagePlan(stage.name, tokens, seconds, self._memory(stage, tokens, rows_only, full), disk)

    def _memory(self, stage: Stage, tokens: int, rows_only: bool, full: bool) -> float:
        """Peak bytes: on a GPU those of the tensors, on a CPU also those of the program itself, as it stands now."""
        device = best_device()
        halved = use_bfloat16(self.recipe.model, device)
        weights = (4.0 + 2.0 * halved) * self.parameters  # autocast keeps its copies for the length of a step
        training = 0.0 if rows_only else 12.0 * self.parameters
        passing = (1 if rows_only else 4) * 4.0 * self.table  # the table's gradient on its way, the optimizer's scratch
        activations = min(tokens, stage.batch_size) * self.width * 34 * 2
        logits = 2 * POSITIONS_AT_ONCE * self.vocabulary * (2 if halved else 4) if full else 0
        program = resident_memory() if device.type == "cpu" else 0
        return weights + training + passing + activations + logits + program


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
