"""What benchmarks/steps.py counts: a batch, a model of a known shape, and steps on them."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from shops import Shop, make
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from pauserec.assets import named
from pauserec.config import Columns, DataConfig, ItemColumns, ModelConfig, NextItemJob, Recipe
from pauserec.data.dataset import load_dataset, prepare
from pauserec.llm.growth import grow_vocabulary
from pauserec.llm.model import LanguageModel, positions_of
from pauserec.llm.pretrained import shape_and_tokenizer
from pauserec.llm.tree.attention import lower
from pauserec.llm.tree.flex import FlexPass
from pauserec.llm.tree.rule import visible
from pauserec.llm.vocabulary import grow_tokenizer
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.kind import Sight
from pauserec.stages.next_item import next_item_samples
from pauserec.stages.objective import Objective
from pauserec.stages.rows import FixedRows
from pauserec.training.optimizer import adamw

MODEL, SIZES = "smollm2-135m-q4", (1024, 1024)
LOG = Shop(users=6_000, items=2_000, events=54_000)
PAUSES = 4
FEWEST_DOCUMENTS, FEWEST_BRANCHES = 100, 1_000
FEW, MANY = 2, 4
"""Layers of the two models whose difference is what a layer costs."""


@torch.library.custom_op("pauserec_bench::attend", mutates_args=())
def one_operator(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Stands for attention, which is a single operator on a GPU: operators are counted, and what this one gives is not."""
    share = q.shape[1] // k.shape[1]
    return q * scale + (k + v).repeat_interleave(share, 1)


@torch.library.custom_op("pauserec_bench::attend_backward", mutates_args=())
def its_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    grouped = grad.unflatten(1, (k.shape[1], -1)).sum(2)
    return grad * scale, grouped, grouped.clone()


one_operator.register_fake(lambda q, k, v, scale: torch.empty_like(q, memory_format=torch.contiguous_format))
its_backward.register_fake(lambda grad, q, k, v, scale: tuple(torch.empty_like(part) for part in (q, k, v)))
one_operator.register_autograd(
    lambda ctx, grad: (*its_backward(grad, *ctx.saved_tensors, ctx.scale), None),
    setup_context=lambda ctx, inputs, output: (
        ctx.save_for_backward(*inputs[:3]),
        setattr(ctx, "scale", inputs[3]),
    ),
)


class OneOperatorPass(FlexPass):
    """The pass of a GPU with its attention as one operator."""

    with_mask = False

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """See Pass.attend."""
        if self.with_mask and window not in self._masks:
            self._masks[window] = self._mask(window, q.device)
        output: Tensor = one_operator(lower(q), lower(k), lower(v), scale)
        return output


class DensePass(FlexPass):
    """The pass of a GPU with all scores at once: FlexAttention has no gradient on a CPU."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """See Pass.attend."""
        seen = visible(self.marks[:, :, None], self.marks[:, None], window)
        return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=True)


class WithMask(OneOperatorPass):
    """The same, with the mask made as a GPU makes it."""

    with_mask = True


class Bench:
    """Data, IDs, batches and models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = Recipe.load("amazon-all")
        job = self.recipe.stages[-1].job(self.recipe)
        assert isinstance(job, NextItemJob)
        self.job = job.model_copy(update={"stage": job.stage.model_copy(update={"pauses": PAUSES, "fields": ()})})

    @cached_property
    def dataset(self) -> Any:
        """A log of short histories."""
        events, items = make(LOG, self.folder / "log")
        out = self.folder / "dataset"
        out.mkdir()
        columns = Columns(user="customer", item="product", timestamp="bought_at")
        titles = ItemColumns(item="sku", title=["name"], categories=["category"])
        data = DataConfig(interactions=str(events), items=str(items), columns=columns, item_columns=titles)
        prepare(data, out=out, log=lambda **_: None)
        return load_dataset(out)

    @cached_property
    def ids(self) -> SemanticIds:
        """Distinct IDs, always the same ones."""
        count = len(self.dataset.items)
        keys = np.random.default_rng(0).choice(int(np.prod(SIZES)), count, replace=False)
        return SemanticIds(np.stack(np.unravel_index(keys, SIZES), axis=1).astype(np.int64), SIZES)

    def grown(self, layers: int) -> tuple[Any, Any, Any]:
        """Shape, tokenizer and vocabulary of the model."""
        config = ModelConfig(name=MODEL, layers=layers)
        shape, tokenizer = shape_and_tokenizer(config, named.model_path(MODEL, weights=False))
        vocabulary = grow_tokenizer(tokenizer, self.ids)
        shape.vocab_size = vocabulary.used
        return shape, tokenizer, vocabulary

    def model(self, layers: int, shape: Any = None) -> LanguageModel:
        """A model with random weights whose backbone and SID rows train."""
        found, tokenizer, vocabulary = self.grown(layers)
        torch.manual_seed(0)
        model = LanguageModel(AutoModelForCausalLM.from_config(shape or found), tokenizer, vocabulary)
        model.train_rows(range(vocabulary.first_sid, vocabulary.used), backbone=True)
        return model

    def rows(self, batch_tokens: int, epochs: float = 1.0) -> FixedRows:
        """The stage's batches, as a GPU takes them."""
        shape, tokenizer, vocabulary = self.grown(1)
        stage = self.job.stage.model_copy(update={"batch_tokens": batch_tokens, "epochs": epochs})
        sight = Sight(self.dataset, self.ids, tokenizer, vocabulary, positions_of(shape))
        samples = next_item_samples(self.job.model_copy(update={"stage": stage}), sight)
        return FixedRows(samples.batches())

    def batch(self, batch_tokens: int) -> dict[str, Any]:
        """The first batch with at least so many documents and branches."""
        rows = self.rows(batch_tokens)
        for number in range(len(rows)):
            marks = rows[number]["layout"]
            branches = len(np.unique(marks[:2][:, marks[1] >= 0], axis=1).T)
            if marks[0].max() >= FEWEST_DOCUMENTS and branches >= FEWEST_BRANCHES:
                return rows[number]
        raise ValueError(f"no batch of {batch_tokens} tokens has so many documents and branches")

    def objective(self, model: LanguageModel, *, dropout: bool = True) -> Objective:
        """The stage's objective on the path of a GPU."""
        changes = {"compile": True} if dropout else {"compile": True, "layer_dropout": 0.0}
        stage = self.job.stage.model_copy(update=changes)
        objective = Objective(model, "codebook", stage.dropout if dropout else 0.0, settings=stage)
        assert objective._compiled is not None
        objective._compiled.fixed = True
        return objective.train()


@contextmanager
def as_on_a_gpu(tree: type[FlexPass] = OneOperatorPass, *, compiled: bool = True) -> Iterator[None]:
    """Another kernel of attention; compiled=False leaves the layers' halves as they are written."""
    with ExitStack() as stack:
        stack.enter_context(patch("pauserec.stages.objective.tree_pass", lambda layout, device: tree(layout)))
        if not compiled:
            stack.enter_context(patch("pauserec.llm.layers.trained._compiled", lambda half, fixed: half))
        yield


def tensors(batch: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """What the objective is given of a batch."""
    arrays = {key: torch.from_numpy(value) for key, value in batch.items() if isinstance(value, np.ndarray)}
    return {key: value.to(device) for key, value in arrays.items()} | {"counts": batch["counts"]}


def operators(bench: Bench) -> dict[str, Any]:
    """Operators of a layer, forward and backward: what a model of four layers has more than one of two, halved."""
    batch = tensors(bench.batch(8192))
    counts: dict[int, tuple[int, int]] = {}
    names: dict[int, tuple[dict[str, int], dict[str, int]]] = {}
    with as_on_a_gpu(), torch._inductor.config.patch({"cpp.enable_kernel_profile": True}):
        for layers in (FEW, MANY):
            objective = bench.objective(bench.model(layers))
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16):
                    objective(**batch).backward()
                objective.zero_grad()
            with profile(activities=[ProfilerActivity.CPU]) as forward, torch.autocast("cpu", torch.bfloat16):
                loss = objective(**batch)
            with profile(activities=[ProfilerActivity.CPU]) as backward:
                loss.backward()
            names[layers] = _counted(forward), _counted(backward)
            counts[layers] = sum(names[layers][0].values()), sum(names[layers][1].values())
    each = [(counts[MANY][way] - counts[FEW][way]) / (MANY - FEW) for way in (0, 1)]
    which = [
        {
            name: (count - names[FEW][way].get(name, 0)) / (MANY - FEW)
            for name, count in names[MANY][way].items()
            if count != names[FEW][way].get(name, 0)
        }
        for way in (0, 1)
    ]
    return {
        "ops_per_layer_forward": each[0],
        "ops_per_layer_backward": each[1],
        "ops": dict(zip(("forward", "backward"), which, strict=True)),
    }


def _counted(profiled: Any) -> dict[str, int]:
    """Operators and generated kernels by name, each once: not those that an operator calls, and no memory taken."""
    found: dict[str, int] = {}
    for event in profiled.events():
        if _counts(event.name) and not any(_counts(parent.name) for parent in _parents(event)):
            found[event.name] = found.get(event.name, 0) + 1
    return found


def _counts(name: str) -> bool:
    return (
        name.startswith(("aten::", "pauserec_bench::")) and not name.startswith("aten::empty")
    ) or "cpp_fused" in name


def _parents(event: Any) -> Iterator[Any]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event


def gradients(bench: Bench) -> dict[str, Any]:
    """Distance of all gradients in float32 from those of transformers' layers over documents one after another."""
    batches = bench.rows(1024)._batches
    model, batch = bench.model(FEW), batches[0]
    found: list[list[Tensor]] = []
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = tensors(batch) | {"layout": batch["layout"]}
    with as_on_a_gpu(DensePass):
        ours = bench.objective(model, dropout=False)(**tensors(FixedRows(batches)[0]))
        found.append(list(torch.autograd.grad(ours, trained)))
    theirs = Objective(model, "codebook").train()(**plain)
    found.append(list(torch.autograd.grad(theirs, trained)))
    apart = sum(float((one - other).square().sum()) for one, other in zip(*found, strict=True))
    whole = sum(float(other.square().sum()) for other in found[1])
    return {"same_gradients": (apart / whole) ** 0.5}


def synchronisations(bench: Bench) -> dict[str, Any]:
    """Whether a whole step asks a device for a value: on tensors without values it is an error."""
    batch, failed = bench.batch(8192), {}
    for device in ("cpu", "meta"):
        try:
            _step_without_values(bench, batch, device)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            failed[device] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return {"syncs_per_step": len(failed), "syncs": failed}


def _step_without_values(bench: Bench, batch: dict[str, Any], device: str) -> None:
    model = bench.model(FEW).to(device)
    given = tensors(batch, device)
    with ExitStack() as stack:
        stack.enter_context(as_on_a_gpu(WithMask, compiled=False))
        if device == "cpu":
            mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
            for part in model.modules():
                for own in (part._parameters, part._buffers):
                    own.update({name: mode.from_tensor(value) for name, value in own.items() if value is not None})
            given = {key: mode.from_tensor(v) if isinstance(v, Tensor) else v for key, v in given.items()}
        objective = bench.objective(model)
        optimizer = adamw(objective, bench.job.stage)
        if device == "meta":  # which the fused kernel does not know
            for group in optimizer.param_groups:
                group |= {"fused": False, "foreach": True}
        with torch.autocast("cpu", torch.bfloat16, enabled=device == "cpu"):
            loss = objective(**given) / batch["count"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def compilations(bench: Bench) -> dict[str, Any]:
    """How many of 50 batches of different content made anything be compiled."""
    torch._dynamo.reset()
    rows, compiled = bench.rows(1024, epochs=3.0), 0
    with as_on_a_gpu():
        objective = bench.objective(bench.model(FEW))
        for number in range(50):
            before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            objective(**tensors(rows[number])).backward()
            objective.zero_grad()
            compiled += torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    return {"compilations_50_batches": compiled}


def base_seconds(bench: Bench) -> dict[str, Any]:
    """The step `base` with all layers: the pretrained model, grown and written."""
    ids, times = bench.folder / "ids", []
    ids.mkdir()
    bench.ids.save(ids)
    for number in range(3):
        out = bench.folder / f"base-{number}"
        out.mkdir()
        begin = time.perf_counter()
        step = FinishedStep("semantic_ids", ids, "", {})
        grow_vocabulary(ModelConfig(name=MODEL), step, out=out, log=lambda *_: None)
        times.append(time.perf_counter() - begin)
    return {"base_seconds": round(statistics.median(times), 2), "base_times": [round(seconds, 2) for seconds in times]}
