"""Training against Hugging Face's Trainer with padded batches, and our own choices against each other.

    python benchmarks/train.py --data PATH [--model smollm2-135m-q4] [--layers N] [--rounds 3] [--save]

PATH is a data set with titles (Amazon Beauty). The model has its full depth unless --layers says otherwise, and rows for
4 x 256 codes; IDs are random. Both sides see the same samples and the same weights; a step is forward and backward.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import arguments, product_rate, random_ids, report
from train_parts import PARTS

from pauserec.config import DataConfig, ModelConfig
from pauserec.data.dataset import load_dataset, prepare
from pauserec.llm.growth import grow_vocabulary
from pauserec.runs.steps import FinishedStep


def make(folder: Path, data: Path, model: str, layers: int | None) -> None:
    """Prepare data, random IDs and the grown model."""
    for name in ("dataset", "ids", "base"):
        (folder / name).mkdir()
    prepare(DataConfig(source=str(data)), out=folder / "dataset", log=lambda **_: None)
    count = len(load_dataset(folder / "dataset").items)
    random_ids(count).save(folder / "ids")
    step = FinishedStep("semantic_ids", folder / "ids", "", {})
    grow_vocabulary(ModelConfig(name=model, layers=layers), step, out=folder / "base", log=lambda *_: None)


def measured(part: str, folder: Path, rounds: int) -> dict[str, Any]:
    """What a part found; also said on standard error at once, for a long run may be cut short."""
    script = Path(__file__).with_name("train_parts.py")
    command = [sys.executable, str(script), part, "--folder", str(folder), "--rounds", str(rounds)]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
    )
    print(json.dumps({part: found}), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder of a data set with titles")
    parser.add_argument("--model", default="smollm2-135m-q4")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data PATH is needed: a folder with interactions.* and items.*")
    found: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder, options.data, options.model, options.layers)
        for part in [*PARTS, "peak-full", "peak-rows"]:
            result = measured(part, folder, options.rounds)
            raw |= result.pop("raw", {})
            found |= result
    found["embedding_only_peak_memory_ratio"] = round(found["peak_mb_rows"] / found["peak_mb_full"], 3)
    kinds = (torch.float32, torch.bfloat16)
    rates = {str(kind).removeprefix("torch."): round(product_rate(kind) / 1e9, 1) for kind in kinds}
    content = {"model": options.model, "layers": options.layers, **found}
    report("train", {**content, "matrix_rate_gflops": rates, "times": raw}, options.save)


if __name__ == "__main__":
    main()
