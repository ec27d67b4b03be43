"""Write the tables of docs/results.md and the README anew from the comparisons under results/.

    python benchmarks/tables.py

A table stands between `<!-- compare FILE -->` and `<!-- end -->`, and a short one of several data sets between
`<!-- short NAME=FILE NAME=FILE -->` and `<!-- end -->`. A file holds what `pauserec compare RUN ... --format json` printed.
"""

import re
from pathlib import Path

from pauserec.compare import compare
from pauserec.tables import rendered

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")
WHOLE = re.compile(r"(<!-- compare (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHORT = re.compile(r"(<!-- short (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with all tables as their files have them."""
    page = WHOLE.sub(lambda found: found[1] + rendered(compare([ROOT / found[2]]), "md") + "\n\n" + found[3], page)
    return SHORT.sub(
        lambda found: found[1] + short(dict(part.split("=") for part in found[2].split())) + found[3], page
    )


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
