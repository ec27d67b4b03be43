"""Latency and throughput of recommending on this machine, at the shapes of real backbones with random weights.

    python benchmarks/gpu/speed.py --out OUT [--shapes 135m 0.6b 1.7b] [--training KIND ...] [--ways WAY ...]
                                   [--rounds 20] [--budget SECONDS] [--layers N]

For each shape: a training step with each kind of attention, compiled or not; and for each way of running a request (plain,
and on a GPU compiled, with CUDA graphs, both) p50 and p95 of one request at T = 500, K = 20 and at T = 1000, K = 256, requests
per second of batches, and Hugging Face's generate beside the first (same weights, same prompt, in turns). OUT/speed.json grows
with each of these, also from call to call: what is worth most goes first, and a failed capture spoils one process only. Speed
needs no trained weights; the vocabulary is SmolLM2's.
"""

import argparse
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import entries  # noqa: F401  so that the modules beside this folder are found
import numpy as np
import torch
from decode import Ours, Theirs, prepare, random_prompt
from measure import clock, header, interleaved, product_rate, ratio
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from pauserec.assets import named
from pauserec.config import SftConfig
from pauserec.llm.decode.graphs import Graphs
from pauserec.llm.model import LanguageModel
from pauserec.llm.tree.samples import Sample, collate
from pauserec.runs.device import best_device, bfloat16_is_fast
from pauserec.runs.files import read_json, write_atomically
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.cost import with_cost
from pauserec.stages.objective import Objective
from pauserec.training.batches import IGNORE, Batches

TOKENIZER = "smollm2-135m-q4"
SHAPES = ("0.6b", "135m", "1.7b")
LATENCY = ((500, 20), (1000, 256))
"""Prompt tokens and beams of the requests that are timed one by one."""
BATCHES = (1, 8, 64)
WAYS = ("plain", "compiled", "graphs", "compiled, graphs")
TRAINING = ("documents", "documents, compiled", "flex", "flex, compiled")
TRAINED_TOKENS = (
    {"135m": 32768, "0.6b": 16384, "1.7b": 8192} if torch.cuda.is_available() else dict.fromkeys(SHAPES, 2048)
)
"""Tokens of a training step, as many as a GPU of 80 GB holds beside weights and moments."""
MOST_TOKENS = 64 * 512
"""Tokens of the largest batch that is captured: all of the above."""


def shape(name: str, vocabulary: int, layers: int | None) -> PretrainedConfig:
    """A backbone's configuration."""
    if name == "135m":
        kind, width, depth, heads, groups, feed, extra = LlamaConfig, 576, 30, 9, 3, 1536, {}
    else:
        width, feed = {"0.6b": (1024, 3072), "1.7b": (2048, 6144)}[name]
        kind, depth, heads, groups, extra = Qwen3Config, 28, 16, 8, {"head_dim": 128}
    return kind(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=feed,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        **extra,
    )


def random_model(name: str, folder: Path, layers: int | None) -> str:
    """A Hugging Face folder of that shape with random weights and SmolLM2's tokenizer."""
    source = Path(named.model_path(TOKENIZER))
    folder.mkdir()
    for file in source.glob("*"):
        if "token" in file.name or file.name in ("vocab.json", "merges.txt", "chat_template.jinja"):
            shutil.copy(file, folder)
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    with torch.device(best_device()):
        model = AutoModelForCausalLM.from_config(shape(name, vocabulary, layers), dtype=torch.bfloat16)
    model.cpu().save_pretrained(folder)
    return str(folder)


def spread(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """p50 and p95 of a request, in milliseconds."""
    for _ in range(3):
        work()
    times = [clock(work)["wall_ms"] for _ in range(rounds)]
    return {"p50_ms": round(float(np.percentile(times, 50)), 3), "p95_ms": round(float(np.percentile(times, 95)), 3)}


@torch.inference_mode()
def measure(name: str, options: argparse.Namespace, note: Callable[[dict[str, Any]], None], deadline: float) -> None:
    """Everything about one shape, noted as it is found. Captures come last: a failed one spoils what is left of a process."""
    torch._dynamo.reset()  # compiled code is kept for eight shapes, of all models together
    dtype = torch.bfloat16 if bfloat16_is_fast(best_device()) else torch.float32
    size = (8192 if torch.cuda.is_available() else 512,) * 3
    found: dict[str, Any] = {"precision": str(dtype), "matrix_rate_tflops": round(product_rate(dtype, *size) / 1e12, 2)}
    with tempfile.TemporaryDirectory() as place:
        model = random_model(name, Path(place) / "model", options.layers)
        ids, base = prepare(model, Path(place)), Path(place) / "base"
        for way in (way for way in options.training if trains_here(way) and time.monotonic() < deadline):
            profile = options.out / f"profile-{name}-{way.replace(', ', '-')}.txt"
            found.setdefault("training", {})[way] = train(
                base, ids, dtype, way, options.rounds, TRAINED_TOKENS[name], profile
            )
            note(found)
        for way in (way for way in options.ways if runs_here(way) and time.monotonic() < deadline):
            found.setdefault("ways", {})[way] = attempt(base, ids, dtype, way, options.rounds)
            note(found)


def runs_here(way: str) -> bool:
    """CUDA graphs and the compiler are for GPUs."""
    return way == "plain" or torch.cuda.is_available()


def set_up(base: Path, ids: SemanticIds, dtype: torch.dtype, way: str) -> Ours:
    """A model that runs requests this way."""
    ours = Ours(base, ids, dtype, compile="compiled" in way)
    ours.graphs = Graphs(ours.model, most_tokens=MOST_TOKENS, kept_tokens=8 * MOST_TOKENS) if "graphs" in way else None
    return ours


def attempt(base: Path, ids: SemanticIds, dtype: torch.dtype, way: str, rounds: int) -> dict[str, Any]:
    """Latency and throughput of one way; a way that fails says so, and costs the others nothing."""
    try:
        ours = set_up(base, ids, dtype, way)
        found: dict[str, Any] = {}
        for tokens, beams in LATENCY:
            prompt = random_prompt(tokens, ours, seed=tokens)
            found[f"T{tokens}_K{beams}"] = spread(lambda p=prompt, k=beams: ours.top([p], k), rounds)
        for batch in BATCHES:
            prompts = [random_prompt(500, ours, seed=seed) for seed in range(batch)]
            p50 = spread(lambda p=prompts: ours.top(p, 20), max(3, rounds // 4))["p50_ms"]
            found[f"requests_per_second_T500_K20_batch{batch}"] = round(1e3 * batch / p50, 1)
        found |= beside_generate(ours, Theirs(base, ids, dtype, ours), rounds)
        if ours.graphs is not None and ours.graphs.failed:
            found["not_captured"] = [f"{shape}: {why}"[:300] for shape, why in ours.graphs.failed.items()]
        return found
    except Exception as error:  # the figures of the other ways are worth more than this one's traceback
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


def trains_here(way: str) -> bool:
    """FlexAttention has no backward on a CPU."""
    return torch.cuda.is_available() or "flex" not in way


def beside_generate(ours: Ours, theirs: Theirs, rounds: int) -> dict[str, Any]:
    """The same request through Hugging Face, in turns."""
    prompt = random_prompt(500, ours, seed=500)
    sides: dict[str, Callable[[], Any]] = {
        "pauserec": lambda: ours.top([prompt], 20),
        "prefill": lambda: theirs.prefill(prompt),
        "generate": lambda: theirs.top(prompt, 20),
    }
    times = interleaved(sides, rounds=max(3, rounds // 4))
    ratios = {"speedup_vs_generate": ratio(times, "generate", "pauserec")}
    return {**ratios, "ratio_to_prefill": ratio(times, "pauserec", "prefill"), "beside_generate_T500_K20": times}


def kernels(step: Callable[[], None], steps: int = 5, shown: int = 25) -> str:
    """The operators of some steps that take longest, as a table."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiled:
        for _ in range(steps):
            step()
    by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    return str(profiled.key_averages().table(sort_by=by, row_limit=shown))


def random_batches(model: LanguageModel, most: int) -> Batches[int]:
    """Batches of random prompts, each with one target at its end."""

    def sample(length: int) -> Sample:
        tokens = np.random.default_rng(length).integers(0, model.vocabulary.first_sid, length)
        labels = np.full(length, IGNORE)
        labels[-1] = model.vocabulary.first_sid + 2
        return Sample(tokens, labels)

    return Batches(
        lambda epoch, rng: rng.lognormal(5.7, 0.45, most // 100).astype(int).clip(60, 1500).tolist(),
        int,
        lambda chosen: collate([sample(length) for length in chosen]).batch(),
        epochs=1.0,
        batch_tokens=most,
        seed=0,
    )


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    base: Path, ids: SemanticIds, dtype: torch.dtype, way: str, rounds: int, most: int, profile: Path
) -> dict[str, Any]:
    """A step of next-item SFT on packed prompts of about 330 tokens: tokens per second and MFU, as result.json counts it.

    profile: the text file that gets the operators that take longest.
    """
    try:
        kind = {"attention": "flex" if "flex" in way else "documents", "compile": "compiled" in way}
        settings = SftConfig(kind="sft", name="sft", **kind)  # type: ignore[arg-type]
        model = LanguageModel.load(base, ids).to(best_device()).train()
        objective = Objective(model, settings=settings)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=torch.cuda.is_available())
        batch = dict(objective.rows(random_batches(model, most))[0])
        targets = batch.pop("count")
        given = {k: torch.from_numpy(v).to(model.device) if isinstance(v, np.ndarray) else v for k, v in batch.items()}

        def step() -> None:
            with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
                loss = objective(**given)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        seconds = spread(step, max(3, rounds // 2))["p50_ms"] / 1e3
        profile.write_text(kernels(step))
        tokens = len(batch["tokens"])
        speed = {"tokens": tokens, "targets": targets, "tokens_per_second": tokens / seconds}
        cost = with_cost({**speed, "training_seconds": seconds}, model, frozen=False, bfloat16=dtype == torch.bfloat16)
        return {"documents": targets, **{key: cost[key] for key in ("tokens", "tokens_per_second", "mfu")}}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, choices=SHAPES)
    parser.add_argument("--training", nargs="*", default=TRAINING, choices=TRAINING, help="kinds of training step")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS, help="ways of running a request")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--budget", type=float, default=600.0, help="seconds; what begins later is left out")
    parser.add_argument("--layers", type=int, help="fewer layers, to try the script")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "speed.json"
    began, content = time.monotonic(), {**header(), "shapes": read_json(path).get("shapes", {})}
    for name in options.shapes:
        if time.monotonic() - began > options.budget:
            print(f"{name}: no time left")
            continue

        def note(found: dict[str, Any], name: str = name) -> None:
            before = content["shapes"].get(name, {})
            parts = {part: before.get(part, {}) | found[part] for part in ("training", "ways") if part in found}
            content["shapes"][name] = before | found | parts | ({"layers": options.layers} if options.layers else {})
            write_atomically(path, json.dumps(content, indent=1).encode())

        measure(name, options, note, began + options.budget)
        print(json.dumps({name: content["shapes"][name]}), flush=True)


if __name__ == "__main__":
    main()
