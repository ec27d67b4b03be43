"""Seconds a recommendation, by the protocol of the paper's Appendix G.1: 500 test users, batches of 16, greedy decoding.

    python benchmarks/latency.py RUN [--users 500] [--batch 16] [--save]

Every language model of a finished run, twice: by Hugging Face's `generate` as in the paper (greedy, at most 20 tokens of SID,
prompts padded on the left, its own cache), and by this package's decoder (one beam, under the catalogue's constraint).
The paper ran float16 on an A100; here the model keeps the precision of its run. Prints JSON. On a shared machine trust
the ratio of the two sides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import arguments, interleaved, ratio, report
from transformers import AutoModelForCausalLM

from pauserec.config import DecodingConfig
from pauserec.data.dataset import load_dataset
from pauserec.llm.recommender import LLMRecommender
from pauserec.records import IntArray
from pauserec.results.finished import open_finished
from pauserec.results.testing import row_test
from pauserec.runs.device import best_device
from pauserec.semantic_ids.codes import SemanticIds

SID_TOKENS = 20


class Generate:
    """Hugging Face's `generate` over padded prompts."""

    def __init__(self, checkpoint: Path, recommender: LLMRecommender) -> None:
        self.prompts, self.pad = recommender.prompts, recommender.model.tokenizer.eos_token_id
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=recommender.model.table.dtype)
        self.model.to(best_device()).eval()

    @torch.inference_mode()
    def __call__(self, histories: Sequence[IntArray]) -> None:
        rows = [self.prompts.prompt(history) for history in histories]
        longest = max(map(len, rows))
        padded = torch.tensor([[self.pad] * (longest - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        end = self.prompts.vocabulary.end
        self.model.generate(
            padded,
            attention_mask=mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=SID_TOKENS,
            eos_token_id=end,
            pad_token_id=self.pad,
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = open_finished(options.run)
    dataset = load_dataset(folder.finished("dataset").path)
    ids = SemanticIds.load(folder.finished("semantic_ids").path)
    histories = [history.items for history in dataset.split("test")[: options.users]]
    batches = [histories[start : start + options.batch] for start in range(0, len(histories), options.batch)]
    found: dict[str, Any] = {}
    for row in folder.recipe.evaluation.models:
        test = row_test(folder.recipe, row).model_copy(update={"decoding": DecodingConfig(beams=1)})
        checkpoint = folder.finished(row.stage)
        recommender = test.recommender(checkpoint, ids, dataset)
        generate = Generate(checkpoint.path, recommender)
        sides = {
            "generate": lambda generate=generate: [generate(batch) for batch in batches],
            "pauserec": lambda recommender=recommender: [
                recommender.top(batch, 1, drop_seen=False) for batch in batches
            ],
        }
        times = interleaved(sides, rounds=options.rounds)
        found[row.name] = {
            "seconds_per_sample": {name: times[name]["wall_ms_median"] / 1e3 / len(histories) for name in sides},
            "times_faster": ratio(times, "generate", "pauserec"),
            "pauses": test.pauses,
            "times": times,
        }
    report(
        "latency",
        {"run": folder.recipe.name, "users": len(histories), "batch": options.batch, "rows": found},
        options.save,
    )


if __name__ == "__main__":
    main()
