"""Write the tables of docs/results.md and the README anew from the comparisons under results/.

    python benchmarks/tables.py

A table stands between a mark and `<!-- end -->`. The mark is `<!-- compare FILE -->`, or `<!-- compare FILE without cost -->`
where costs stand elsewhere, or `<!-- short NAME=FILE NAME=FILE -->` for a short table of several data sets: files that
`pauserec compare RUN ... --format json` printed. Or it is `<!-- run FILE -->` for the table of a quickstart: its result.json.
"""

import json
import re
from pathlib import Path

from pauserec.compare.runs import compare
from pauserec.compare.tables import rendered
from pauserec.config import Recipe
from pauserec.evaluation.metrics import METRICS
from pauserec.results.ledger import ancestry

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
WHOLE = re.compile(r"(<!-- compare (\S+)( without cost)? -->\n).*?(<!-- end -->)", re.DOTALL)
RUN = re.compile(r"(<!-- run (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHORT = re.compile(r"(<!-- short (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with all tables as their files have them."""
    page = WHOLE.sub(lambda found: found[1] + whole(ROOT / found[2], cost=not found[3]) + "\n\n" + found[4], page)
    page = RUN.sub(lambda found: found[1] + quickstart(ROOT / found[2]) + found[3], page)
    return SHORT.sub(
        lambda found: found[1] + short(dict(part.split("=") for part in found[2].split())) + found[3], page
    )


def whole(file: Path, *, cost: bool) -> str:
    """All tables of a comparison, or all but those of cost."""
    parts = rendered(compare([file]), "md").split("\n\n**")
    return "\n\n**".join(part for part in parts if cost or not part.startswith("cost of training"))


def quickstart(file: Path) -> str:
    """The rows that `pauserec quickstart` prints."""
    result = json.loads(file.read_text())
    recipe = Recipe.load(result["recipe"])
    stage_of = {model.name: model.stage for model in recipe.evaluation.models}
    lines = [
        "| model | Hit@5 | Hit@10 | NDCG@5 | NDCG@10 (95% interval) | training, s | ms per user |",
        "|---" * 7 + "|",
    ]
    for name, model in result["models"].items():
        low, high = (f"{bound:.4f}"[1:] for bound in model["test"]["ci95"]["ndcg@10"])
        values = " | ".join(f"{model['test'][metric]:.4f}"[1:] for metric in METRICS)
        trained = ancestry(recipe, stage_of[name]) if name in stage_of else ()
        latency = model["decoding"]["ms_per_user"]
        seconds = f"{sum(result['stages'][stage]['seconds'] for stage in trained):.0f}" if trained else "<1"
        lines.append(
            f"| {name} | {values} ({low}–{high}) | {seconds} | {f'{latency:.1f}' if latency >= 0.05 else '<0.1'} |"
        )
    return "\n".join(lines) + "\n"


def short(files: dict[str, str]) -> str:
    """Hit@10 and NDCG@10 of every model on every data set, the best first on the first one."""
    rows = {
        name: {row.model: row.metrics for row in compare([ROOT / path]).rows if row.final_fit == "train"}
        for name, path in files.items()
    }
    models = list(dict.fromkeys(model for found in rows.values() for model in found))
    first = next(iter(rows.values()))
    models.sort(key=lambda model: -first[model]["ndcg@10"] if model in first else 1.0)
    lines = ["| model | " + " | ".join(f"{name}: Hit@10 | NDCG@10" for name in files) + " |"]
    lines.append("|---" * (1 + 2 * len(files)) + "|")
    for model in models:
        cells = []
        for found in rows.values():
            cells += [f"{found[model][m]:.4f}"[1:] if model in found else "" for m in ("hit@10", "ndcg@10")]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
