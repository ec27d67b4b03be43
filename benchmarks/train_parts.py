"""The parts of train.py, each measured in a process of its own, so that memory is free again after it."""

import argparse
import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import fresh_peak, interleaved, ratio
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from pauserec.config import DecodingConfig, Format, ImplicitSftConfig, NextItemJob, PromptConfig, SftConfig
from pauserec.data.dataset import load_dataset
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import Corpus, Prompts
from pauserec.llm.tree.passes import TreePass
from pauserec.llm.tree.rule import Layout
from pauserec.llm.tree.samples import Sample, collate
from pauserec.records import Dataset
from pauserec.runs.device import bfloat16_is_fast, peak_memory
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.corpus import corpus_documents, document_tokens
from pauserec.stages.next_item_rows import Window
from pauserec.stages.next_item_samples import NextItemSamples, windows
from pauserec.stages.objective import Objective
from pauserec.training.batches import IGNORE, pack

BATCH = 16
"""Samples of a padded batch."""
ROWS = 4
"""Of these, rows run at once: sixteen with all their logits do not fit 24 GiB. It is the same padding and arithmetic."""
TOKENS = 4096
"""Tokens of a packed batch."""


class Bench:
    """Data, model and samples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset: Dataset = load_dataset(folder / "dataset")
        self.ids = SemanticIds.load(folder / "ids")
        self.sequences = self.dataset.training_sequences()
        self.bfloat16 = bfloat16_is_fast(torch.device("cpu"))

    def model(self) -> LanguageModel:
        """The grown model, float32, everything trainable."""
        return LanguageModel.load(self.folder / "base", self.ids).train()

    def samples(self, model: LanguageModel, targets: str, *, text: bool) -> NextItemSamples:
        """Makes samples of implicit SFT, with titles and categories, or of SFT on SIDs alone."""
        form = Format(("title", "categories"), pauses=5) if text else Format()
        prompts = Prompts(model.tokenizer, model.vocabulary, self.ids, self.dataset.items, PromptConfig(), form)
        kind: dict[str, Any] = {"name": "bench", "targets": targets}
        stage = ImplicitSftConfig(kind="implicit_sft", **kind) if text else SftConfig(kind="sft", **kind)
        job = NextItemJob(stage=stage, prompt=PromptConfig(), decoding=DecodingConfig(), precision="auto", seen="keep")
        self.opening = prompts.opening
        return NextItemSamples(job, prompts, self.sequences)

    def last(self, samples: NextItemSamples, users: Sequence[int]) -> list[Sample]:
        """One sample per user: the last training event as target."""
        return [samples.build(_window(len(self.sequences[user]) - 1, user)) for user in users]

    def draw(self, count: int, seed: int) -> list[int]:
        """Random users with at least two training events."""
        able = [user for user, items in enumerate(self.sequences) if len(items) > 1]
        return sorted(np.random.default_rng(seed).choice(able, count, replace=False).tolist())


def _window(target: int, user: int, length: int = 20) -> Window:
    start = max(0, target - length)
    return Window(user, start, target, (target,), start + 1)


def packed_step(objective: Objective, samples: Sequence[Sample], bfloat16: bool, opening: Sequence[int] = ()) -> None:
    """Forward and backward over samples, packed into passes of at most TOKENS tokens; gradients of the mean loss.

    opening: tokens that all samples begin with, beside their own.
    """
    objective.zero_grad(set_to_none=True)
    count = sum(int((part != IGNORE).sum()) for sample in samples for part in _labels(sample))
    for members in pack([sample.length for sample in samples], TOKENS - len(opening), range(len(samples))):
        batch = collate([samples[member] for member in members], opening).batch()
        tensors = {key: torch.from_numpy(batch[key]) for key in ("tokens", "places", "labels")}
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = objective(**tensors, layout=batch["layout"]) / count
        loss.backward()


def whole(sample: Sample, opening: Sequence[int]) -> Sample:
    """A sample without branches, as the common recipe has it: with the words all prompts begin with."""
    return Sample(np.append(opening, sample.tokens), np.append(np.full(len(opening), IGNORE), sample.labels))


def _labels(sample: Sample) -> list[np.ndarray]:
    return [sample.labels, *(branch.labels for branch in sample.branches)]


class Padded:
    """The common recipe: Trainer, samples padded to the longest of a random batch, logits at every position."""

    def __init__(self, bench: Bench, used: int, bfloat16: bool) -> None:
        hf = AutoModelForCausalLM.from_pretrained(
            bench.folder / "base", dtype=torch.float32, attn_implementation="sdpa"
        ).train()
        # our softmax leaves out the rows that only pad the table
        hf.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits[..., :used])
        hf.config.vocab_size = used
        settings = TrainingArguments(str(bench.folder / "trainer"), bf16=bfloat16, use_cpu=True, report_to=[])
        self.trainer = Trainer(model=hf, args=settings)
        self.model = hf

    def step(self, samples: Sequence[Sample]) -> None:
        """Forward and backward of one batch."""
        self.model.zero_grad(set_to_none=True)
        longest = max(len(sample.tokens) for sample in samples) + 1
        ids = torch.zeros(len(samples), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORE)
        mask = torch.zeros_like(ids)
        for row, sample in enumerate(samples):
            n = len(sample.tokens)
            ids[row, : n + 1] = torch.from_numpy(np.append(sample.tokens, sample.labels[-1]))
            labels[row, 1 : n + 1] = torch.from_numpy(sample.labels)
            mask[row, : n + 1] = 1
        count = (labels != IGNORE).sum()
        for start in range(0, len(samples), ROWS):
            part = slice(start, start + ROWS)
            inputs = {"input_ids": ids[part], "attention_mask": mask[part], "labels": labels[part]}
            self.trainer.training_step(self.model, inputs, num_items_in_batch=count)


def against_padded(bench: Bench, rounds: int) -> dict[str, Any]:
    """Seconds of a step on the same random samples; gradients compared in float32."""
    model = bench.model()
    objective, found, raw = Objective(model), {}, {}
    for name, text in (("", True), ("_sid_only", False)):
        samples = bench.last(bench.samples(model, "last", text=text), bench.draw(BATCH, seed=1))
        opening = bench.opening
        common = [whole(sample, opening) for sample in samples]
        padded = Padded(bench, model.vocabulary.used, bench.bfloat16)
        sides: dict[str, Callable[[], Any]] = {
            "pauserec": lambda s=samples, o=opening: packed_step(objective, s, bench.bfloat16, o),
            "padded": lambda p=padded, s=common: p.step(s),
        }
        raw[f"step{name}"] = times = interleaved(sides, rounds=rounds)
        found[f"speedup_vs_padded_trainer{name}"] = ratio(times, "padded", "pauserec")
        raw[f"tokens{name}"] = {
            "real": sum(s.length for s in common),
            "pauserec": len(opening) + sum(s.length for s in samples),
            "padded": BATCH * (1 + max(s.length for s in common)),
        }
        if text:
            found |= same_gradients(bench, objective, samples[:4], opening)
        del padded
        gc.collect()
    return {**found, "raw": raw}


def same_gradients(bench: Bench, objective: Objective, samples: list[Sample], opening: list[int]) -> dict[str, Any]:
    """Relative distance of all gradients, float32."""
    padded = Padded(bench, objective.model.vocabulary.used, bfloat16=False)
    packed_step(objective, samples, bfloat16=False, opening=opening)
    padded.step([whole(sample, opening) for sample in samples])
    theirs = dict(padded.model.named_parameters())
    distance = norm = 0.0
    for name, parameter in objective.model.hf.named_parameters():
        expected, found = theirs[name].grad, parameter.grad
        assert expected is not None
        assert found is not None
        distance += float((found - expected).square().sum())
        norm += float(expected.square().sum())
    relative = (distance / norm) ** 0.5
    return {"same_gradients": relative < 1e-5, "gradient_distance": relative}


def all_targets(bench: Bench, rounds: int, users: int = 12) -> dict[str, Any]:
    """Tokens of an epoch over every target, as one tree a history and as separate samples; time on some histories.

    Separate samples are packed too, each with a template of its own, and show the target's last 20 items, as is common. A
    second count has them start where the tree's window does, which is fewer. Trees share the template's opening in a batch.
    """
    model = bench.model()
    samples, size = bench.samples(model, "all", text=True), 20
    alone = bench.samples(model, "last", text=True)
    trees = separate = same_start = 0
    for user, items in enumerate(bench.sequences):
        if len(items) > 1:
            cut = windows(user, len(items), size, 0.5)
            trees += sum(samples.length(window) for window in cut)
            same_start += sum(samples.tokens_apart(window) for window in cut)
            separate += sum(len(bench.opening) + alone.length(_window(target, user)) for target in range(1, len(items)))
    trees += -(-trees // TOKENS) * len(bench.opening)
    chosen = bench.draw(users, seed=2)
    cut = [w for user in chosen for w in windows(user, len(bench.sequences[user]), size, 0.5)]
    as_trees = [samples.build(window) for window in cut]
    apart = [
        whole(alone.build(_window(target, user)), bench.opening)
        for user in chosen
        for target in range(1, len(bench.sequences[user]))
    ]
    objective = Objective(model)
    times = interleaved(
        {
            "trees": lambda: packed_step(objective, as_trees, bench.bfloat16, bench.opening),
            "separate": lambda: packed_step(objective, apart, bench.bfloat16),
        },
        rounds=rounds,
    )
    return {
        "token_ratio_all_targets": round(separate / trees, 3),
        "token_ratio_all_targets_same_start": round(same_start / trees, 3),
        "time_ratio_all_targets": ratio(times, "separate", "trees"),
        "raw": {
            "epoch_tokens": {"trees": trees, "separate": separate},
            "sample_tokens": {"trees": sum(s.length for s in as_trees), "separate": sum(s.length for s in apart)},
            "all_targets": times,
        },
    }


def cpt_samples(bench: Bench, model: LanguageModel) -> list[Sample]:
    """One batch of continual pretraining."""
    corpus = Corpus(model.tokenizer, model.vocabulary, bench.ids, bench.dataset.items)
    chosen: list[Sample] = []
    for document in corpus_documents(bench.dataset, corpus, 20, TOKENS):
        ids = np.asarray(document_tokens(corpus, document), dtype=np.int64)
        if sum(sample.length for sample in chosen) + len(ids) > TOKENS:
            break
        chosen.append(Sample(ids[:-1], ids[1:]))
    return chosen


def rows_only(bench: Bench, rounds: int) -> dict[str, Any]:
    """A CPT step that trains the SID rows alone, against one that trains everything."""
    full, rows = bench.model(), bench.model()
    rows.train_rows(rows.vocabulary.sid_rows)
    samples = cpt_samples(bench, full)
    sides = {"full": Objective(full), "rows": Objective(rows)}
    steps: dict[str, Callable[[], Any]] = {
        name: lambda o=objective: packed_step(o, samples, bench.bfloat16) for name, objective in sides.items()
    }
    times = interleaved(steps, rounds=rounds)
    state = {name: _optimizer_bytes(objective) for name, objective in sides.items()}
    return {
        "embedding_only_time_ratio": ratio(times, "rows", "full"),
        "embedding_only_optimizer_memory_ratio": round(state["rows"] / state["full"], 6),
        "raw": {"cpt_step": times, "optimizer_bytes": state, "cpt_tokens": sum(s.length for s in samples)},
    }


def _optimizer_bytes(objective: Objective) -> int:
    """Bytes of AdamW's state after a step on the gradients at hand."""
    trained = [p for p in objective.parameters() if p.grad is not None]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def packing_efficiency(bench: Bench, batches: int = 40) -> float:
    """Floating-point operations that packed batches need over those they compute, attention included."""
    model = bench.model()
    samples, shape = bench.samples(model, "last", text=True), model.hf.config
    weights = sum(p.numel() for p in model.hf.base_model.layers.parameters())
    width = shape.num_hidden_layers * shape.num_attention_heads * (shape.hidden_size // shape.num_attention_heads)
    chosen = bench.last(samples, bench.draw(batches * 12, seed=3))
    needed = computed = 0.0
    before = len(bench.opening)
    for members in pack([sample.length for sample in chosen], TOKENS - before, range(len(chosen))):
        lengths = [chosen[member].length for member in members]
        linear = 2.0 * weights * (before + sum(lengths))
        pairs = before * (before + 1) / 2 + sum(n * before + n * (n + 1) / 2 for n in lengths)
        needed += linear + 4.0 * width * pairs
        computed += linear + 4.0 * width * TreePass(Layout.of([(n, ()) for n in lengths], before)).pairs
    return round(needed / computed, 4)


def print_peak(side: str, folder: Path) -> None:
    """Peak resident memory of one step with its optimizer, the whole process."""
    bench = Bench(folder)
    model = bench.model()
    samples = cpt_samples(bench, model)
    if side == "rows":
        model.train_rows(model.vocabulary.sid_rows)
    fresh_peak()
    objective = Objective(model)
    packed_step(objective, samples, bench.bfloat16)
    _optimizer_bytes(objective)
    print(json.dumps({f"peak_mb_{side}": peak_memory() / 2**20}))


PARTS: dict[str, Callable[[Bench, int], dict[str, Any]]] = {
    "padded": against_padded,
    "targets": all_targets,
    "rows": rows_only,
    "packing": lambda bench, _: {"packing_efficiency": packing_efficiency(bench), "bfloat16": bench.bfloat16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "peak-full", "peak-rows"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if options.part.startswith("peak-"):
        print_peak(options.part.removeprefix("peak-"), options.folder)
    else:
        print(json.dumps(PARTS[options.part](Bench(options.folder), options.rounds)))


if __name__ == "__main__":
    main()
