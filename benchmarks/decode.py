"""Constrained decoding against Hugging Face's generate: the same weights, prompts and top items, in one process.

    python benchmarks/decode.py [--model smollm2-135m-q4] [--rounds 5] [--save]

The model has its full depth and rows for 4 x 256 codes; the catalogue holds 12,101 items with random IDs and made-up
titles; prompts have an exact length. Neither side has a cached template, unless a key says so.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import SIZES, arguments, clock, fresh_peak, interleaved, product_rate, random_ids, ratio, report
from transformers import AutoModelForCausalLM, DynamicCache

from pauserec.config import Format, ModelConfig, PromptConfig
from pauserec.decoding import beam
from pauserec.decoding.beam import Beams
from pauserec.decoding.catalogue import Catalogue
from pauserec.llm.decode.decoder import decode
from pauserec.llm.decode.graphs import Graphs
from pauserec.llm.decode.prefixes import PrefixStore
from pauserec.llm.growth import grow_vocabulary
from pauserec.llm.model import LanguageModel
from pauserec.llm.prompts import MarkedPrompt, Prompts
from pauserec.records import Item
from pauserec.runs.device import best_device, bfloat16_is_fast, resident_memory
from pauserec.runs.device import peak_memory as most_memory
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds

DEVICE = best_device()
ITEMS = 12_101
NEW_ITEM = 24
"""Tokens of one history entry with its title."""
WORDS = (
    "moisturizing shampoo for dry hair natural face cream with vitamin C anti aging serum nail polish set red lipstick "
    "matte finish eye shadow palette brush soft body lotion coconut oil sunscreen daily cleanser gel pack of two ounce"
)


class Ours:
    """Requests through pauserec."""

    def __init__(self, folder: Path, ids: SemanticIds, dtype: torch.dtype, *, compile: bool = False) -> None:
        self.model = LanguageModel.load(folder, ids).in_precision(dtype).to(DEVICE).prepare_inference(compile=compile)
        self.graphs: Graphs | None = None
        self.catalogue = Catalogue.build(ids.codes, ids.sizes).to(DEVICE)
        self.codes = ids.codes.tolist()
        form = Format(("title", "categories"), pauses=5)
        self.prompts = Prompts(self.model.tokenizer, self.model.vocabulary, ids, items(), PromptConfig(), form)

    def top(self, prompts: list[list[int]], k: int, store: PrefixStore | None = None) -> list[list[int]]:
        """Item numbers of each request, best first."""
        return self.scored(prompts, k, store).items.tolist()

    def scored(self, prompts: list[list[int]], k: int, store: PrefixStore | None = None) -> Beams:
        """Items and scores."""
        marked = [MarkedPrompt(prompt, (len(prompt),)) for prompt in prompts]
        return decode(self.model, self.catalogue, marked, k, store=store, graphs=self.graphs)


class Theirs:
    """Requests through generate, with a dictionary from prefixes to legal tokens as its callback."""

    def __init__(self, folder: Path, ids: SemanticIds, dtype: torch.dtype, ours: Ours) -> None:
        self.hf = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
        self.hf.to(DEVICE)
        vocabulary = ours.model.vocabulary
        # our softmax leaves out the rows that only pad the table: cut them here too, so that scores are comparable
        self.hf.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits[..., : vocabulary.used])
        tokens = vocabulary.item_tokens(ids).tolist()
        self.item_of = {tuple(codes): item for item, codes in enumerate(tokens)}
        children: dict[tuple[int, ...], set[int]] = {}
        for codes in tokens:
            for level in range(len(codes)):
                children.setdefault(tuple(codes[:level]), set()).add(codes[level])
        self.children = {prefix: sorted(codes) for prefix, codes in children.items()}

    def prefill(self, prompt: list[int]) -> Any:
        """Keys and values of a prompt, and the last token's logits."""
        return self.hf(torch.tensor([prompt], device=DEVICE), use_cache=True, logits_to_keep=1)

    def top(self, prompt: list[int], k: int, *, shared: bool = False) -> dict[int, float]:
        """Item numbers with their scores, best first. shared: the prompt is run once, its cache handed to generate."""
        extra: dict[str, Any] = {}
        if shared:
            start = torch.tensor([prompt[:-1]], device=DEVICE)
            cache: DynamicCache = self.hf(start, use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(k)
            extra["past_key_values"] = cache
        found = self.hf.generate(
            torch.tensor([prompt], device=DEVICE),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64, device=DEVICE),
            num_beams=k,
            num_return_sequences=k,
            min_new_tokens=len(SIZES),
            max_new_tokens=len(SIZES),
            prefix_allowed_tokens_fn=lambda _, ids: self.children[tuple(ids[len(prompt) :].tolist())],
            do_sample=False,
            pad_token_id=0,
            length_penalty=0.0,  # scores are sums, as ours
            return_dict_in_generate=True,
            output_scores=True,
            **extra,
        )
        items = [self.item_of[tuple(codes)] for codes in found.sequences[:, len(prompt) :].tolist()]
        return dict(zip(items, found.sequences_scores.tolist(), strict=True))


def speed(ours: Ours, theirs: Theirs, tokens: int, rounds: int, *, k: int = 20) -> dict[str, Any]:
    """Both sides and Hugging Face's own prefill at one prompt length."""
    prompt = random_prompt(tokens, ours, seed=tokens)
    sides: dict[str, Callable[[], Any]] = {
        "pauserec": lambda: ours.top([prompt], k),
        "prefill": lambda: theirs.prefill(prompt),
        "generate": lambda: theirs.top(prompt, k),
        "generate_shared_cache": lambda: theirs.top(prompt, k, shared=True),
    }
    return interleaved(sides, rounds=rounds)


def same_top(ours: Ours, theirs: Theirs, requests: int = 8) -> dict[str, Any]:
    """Whether both sides give the same top 20: in the same order, and as sets up to ties.

    Scores of items that both found differ by rounding. An item that only generate found is a tie if, at the level where
    our search dropped it, it lay no further than twice the largest such difference below the last beam that stayed. How
    far generate agrees with itself when it is handed the prompt's cache, the same sums in another order, is the yardstick.
    """
    orders, gaps, noise, common, itself = [], [0.0], 0.0, 0, 0
    for seed in range(requests):
        prompt = random_prompt(120 + 10 * seed, ours, seed=seed)
        found, levels = traced(ours, prompt)
        expected = theirs.top(prompt, 20)
        orders.append(list(found) == list(expected))
        both = found.keys() & expected.keys()
        common += len(both)
        itself += len(theirs.top(prompt, 20, shared=True).keys() & expected.keys())
        noise = max([noise, *(abs(found[item] - expected[item]) for item in both)])
        gaps += [missed_by(levels, ours.codes[item]) for item in expected.keys() - both]
    return {
        "order": all(orders),
        "set": max(gaps) <= 2 * noise,
        "rounding": round(noise, 6),
        "largest_gap_of_an_odd_item": round(max(gaps), 6),
        "of_20_common": common / requests,
        "of_20_common_generate_and_itself": itself / requests,
    }


Level = dict[tuple[int, ...], float]
"""Scores of all candidate prefixes of one level of a search."""


def traced(ours: Ours, prompt: list[int]) -> tuple[dict[int, float], list[Level]]:
    """Items with scores, and the candidates of every level."""
    levels: list[Level] = []
    alive: list[tuple[int, ...]] = [()]
    best = beam._best

    def spy(total: torch.Tensor, beams: int) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal alive
        score, chosen = best(total, beams)
        codes = [divmod(place, SIZES[len(levels)]) for place in range(total.shape[1])]
        prefixes = [(*alive[parent], code) for parent, code in codes]
        levels.append({p: s for p, s in zip(prefixes, total[0].tolist(), strict=True) if s > -torch.inf})
        alive = [prefixes[place] for place in chosen[0].tolist()]
        return score, chosen

    beam._best = spy
    found = ours.scored([prompt], 20)
    beam._best = best
    return dict(zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True)), levels


def missed_by(levels: list[Level], codes: list[int]) -> float:
    """How far below the last surviving beam an item's prefix lay where the search dropped it."""
    for depth, candidates in enumerate(levels):
        last = sorted(candidates.values(), reverse=True)[:20][-1]
        score = candidates.get(tuple(codes[: depth + 1]))
        if score is None:  # it equalled the last beam a level above, and lost the draw
            return 0.0
        if score < last:
            return last - score
    return 0.0


def legal_share(ours: Ours, tokens: int, rounds: int) -> dict[str, float]:
    """Share of a request that goes into legal children and top-k."""
    prompt, spent = random_prompt(tokens, ours, seed=1), 0.0
    originals = Catalogue.legal, Catalogue.bounds, beam._best

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal spent
            results: list[Any] = []
            spent += clock(lambda: results.append(function(*args)))["wall_ms"]
            return results[0]

        return run

    Catalogue.legal, Catalogue.bounds, beam._best = (timed(f) for f in originals)  # type: ignore[method-assign, assignment]
    shares = []
    for _ in range(rounds + 1):
        spent = 0.0
        whole = clock(lambda: ours.top([prompt], 20))["wall_ms"]
        shares.append(spent / whole)
    Catalogue.legal, Catalogue.bounds, beam._best = originals  # type: ignore[method-assign, assignment]
    return {"legal_share": round(float(np.median(shares[1:])), 5)}


def known_user(ours: Ours, tokens: int, rounds: int) -> dict[str, dict[str, Any]]:
    """A request run whole, and one of a user whose history grew by one item since it was last asked for."""
    prompt = random_prompt(tokens, ours, seed=2)
    template, now = len(ours.prompts.opening), len(prompt) - len(ours.prompts.suffix)
    before = now - NEW_ITEM
    earlier = MarkedPrompt(prompt[:before] + prompt[now:], (template, before))
    filled = PrefixStore(10**9)
    decode(ours.model, ours.catalogue, [earlier], 20, store=filled)
    kept, opening = filled.find(earlier.names()), filled.find(earlier.names()[:1])
    assert kept is not None
    assert opening is not None
    marked = MarkedPrompt(prompt, (template, before, now))

    def known() -> None:
        store = PrefixStore(10**9)
        store.keep_template(earlier.names(), opening)
        store.keep(earlier.names(), kept)
        decode(ours.model, ours.catalogue, [marked], 20, store=store)

    return interleaved({"cold": lambda: ours.top([prompt], 20), "known": known}, rounds=rounds)


def throughput(ours: Ours, tokens: int) -> dict[str, float]:
    """Requests per second at several batch sizes."""
    found = {}
    for batch in (1, 8, 32):
        prompts = [random_prompt(tokens, ours, seed=seed) for seed in range(batch)]
        request = partial(ours.top, prompts, 20)
        request()
        found[str(batch)] = round(batch * 1e3 / min(clock(request)["wall_ms"] for _ in range(2)), 3)
    return found


def random_prompt(tokens: int, ours: Ours, seed: int) -> list[int]:
    """A prompt of exactly so many tokens: template, a history of random items with titles, the closing words."""
    rng, prompts = np.random.default_rng(seed), ours.prompts
    history: list[int] = []
    while len(history) < tokens:
        history += prompts.entries[int(rng.integers(ITEMS))]
    room = tokens - len(prompts.opening) - len(prompts.suffix)
    return [*prompts.opening, *history[len(history) - room :], *prompts.suffix]


def items() -> list[Item]:
    """A catalogue of made-up titles."""
    rng, words = np.random.default_rng(0), WORDS.split()
    titles = [" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(ITEMS)]
    return [Item(str(number), title, ("Beauty",)) for number, title in enumerate(titles)]


def prepare(model: str, folder: Path) -> SemanticIds:
    """Random IDs and the grown model, written into `folder`."""
    ids = random_ids(ITEMS)
    (folder / "ids").mkdir()
    (folder / "base").mkdir()
    ids.save(folder / "ids")
    step = FinishedStep("semantic_ids", folder / "ids", "", {})
    grow_vocabulary(ModelConfig(name=model), step, out=folder / "base", log=lambda *_: None)
    return ids


def peak_memory(folder: Path) -> dict[str, float]:
    """Peak memory of a request at K=50, T=1500 above that of a plain prefill, in units of one sequence's cache."""
    found = {}
    for side in ("prefill", "pauserec"):
        command = [sys.executable, __file__, "--peak-of", side, "--folder", str(folder)]
        runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(3)]
        found[side] = min(runs, key=lambda one: float(one["request_mb"]))
    above = found["pauserec"]["request_mb"] - found["prefill"]["request_mb"]
    return {
        "peak_memory_ratio": round(above / found["prefill"]["cache_mb"], 3),
        **{f"{key}_{side}": round(value, 1) for side, values in found.items() for key, value in values.items()},
    }


def print_peak(side: str, folder: Path) -> None:
    """Run one side once in this process; print what it takes in memory: weights at rest, and a request's peak above."""
    ids = SemanticIds.load(folder / "ids")
    ours = Ours(folder / "base", ids, torch.float32)
    prompt = random_prompt(1500, ours, seed=3)
    shape = ours.model.hf.config
    heads = shape.num_key_value_heads * (
        getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    )
    if side == "prefill":
        theirs = Theirs(folder / "base", ids, torch.float32, ours)
        del ours
        run = theirs.prefill
    else:

        def run(tokens: list[int]) -> Any:
            return ours.top([tokens], 50)

    run(prompt[-40:])
    fresh_peak()
    rest = resident_memory()
    run(prompt)
    found = {"request_mb": most_memory() - rest, "at_rest_mb": rest}
    cache = 2 * shape.num_hidden_layers * heads * len(prompt) * 4
    print(json.dumps({name: size / 2**20 for name, size in (found | {"cache_mb": cache}).items()}))


@torch.inference_mode()
def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m-q4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-of", choices=["prefill", "pauserec"], help="for the benchmark's own use")
    parser.add_argument("--folder", type=Path, help="for the benchmark's own use")
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of, options.folder)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ids = prepare(options.model, folder)
        report("decode", {"model": options.model, **measure(folder, ids, options.rounds)}, options.save)


def measure(folder: Path, ids: SemanticIds, rounds: int) -> dict[str, Any]:
    """Everything the benchmark says."""
    raw: dict[str, Any] = {}
    ours = Ours(folder / "base", ids, torch.float32)
    theirs = Theirs(folder / "base", ids, torch.float32, ours)
    raw["same_float32"] = same_top(ours, theirs)
    found: dict[str, Any] = {"same_top20_float32": raw["same_float32"]["order"]}
    for tokens in (400, 100):
        times = raw[f"float32_T{tokens}"] = speed(ours, theirs, tokens, rounds)
        found[f"speedup_vs_generate_T{tokens}"] = ratio(times, "generate", "pauserec")
        found[f"speedup_vs_shared_cache_T{tokens}"] = ratio(times, "generate_shared_cache", "pauserec")
        found[f"ratio_to_prefill_T{tokens}"] = ratio(times, "pauserec", "prefill")
    prompt = random_prompt(400, ours, seed=4)
    widths = {f"K{k}": partial(ours.top, [prompt], k) for k in (10, 50)}
    raw["beams_T400"] = interleaved(widths, rounds=rounds)
    found["ratio_K50_to_K10"] = ratio(raw["beams_T400"], "K50", "K10")
    found |= legal_share(ours, 400, rounds)
    raw["known_user_T400"] = known_user(ours, 400, rounds)
    found["speedup_known_user"] = ratio(raw["known_user_T400"], "cold", "known")
    found |= peak_memory(folder)
    parameters = sum(p.numel() for p in theirs.hf.model.layers.parameters())
    rates = {"float32": product_rate(torch.float32)}
    found["requests_per_second_float32_T400"] = throughput(ours, 400)
    if bfloat16_is_fast(torch.device("cpu")):
        ours = Ours(folder / "base", ids, torch.bfloat16)
        theirs = Theirs(folder / "base", ids, torch.bfloat16, ours)
        raw["same_bfloat16"] = same_top(ours, theirs)
        found["same_set_bfloat16"] = raw["same_bfloat16"]["set"]
        times = raw["bfloat16_T400"] = speed(ours, theirs, 400, rounds)
        found["speedup_vs_generate_T400_bfloat16"] = ratio(times, "generate", "pauserec")
        found["speedup_vs_shared_cache_T400_bfloat16"] = ratio(times, "generate_shared_cache", "pauserec")
        found["ratio_to_prefill_T400_bfloat16"] = ratio(times, "pauserec", "prefill")
        found["requests_per_second_bfloat16_T400"] = throughput(ours, 400)
        rates["bfloat16"] = product_rate(torch.bfloat16)
    found["floor_ms_T400"] = {name: round(2e3 * parameters * 400 / rate, 1) for name, rate in rates.items()}
    return {**found, "matrix_rate_gflops": {name: round(rate / 1e9, 1) for name, rate in rates.items()}, "times": raw}


if __name__ == "__main__":
    main()
