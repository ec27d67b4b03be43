"""Write the tables of docs/results.md anew from the comparisons under results/.

    python benchmarks/tables.py

A table stands between `<!-- compare FILE -->` and `<!-- end -->`; FILE is what `pauserec compare RUN ... --format json` printed.
"""

import re
from pathlib import Path

from pauserec.compare import compare
from pauserec.tables import rendered

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
MARKED = re.compile(r"(<!-- compare (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with all tables as their files have them."""
    return MARKED.sub(lambda found: found[1] + rendered(compare([ROOT / found[2]]), "md") + "\n\n" + found[3], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
