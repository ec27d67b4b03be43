"""A recipe run from the command line: what is shown while it goes on and at its end."""

from pathlib import Path
from typing import TYPE_CHECKING

from pauserec.cli.terminal import (
    announce,
    announce_again,
    console,
    one_line_warnings,
    quiet_libraries,
    say,
    say_nothing,
    warn,
)

if TYPE_CHECKING:
    from pauserec.config import Recipe


def run_and_show(
    recipe: "Recipe", out: Path, redo: tuple[str, ...] = (), reuse: tuple[Path, ...] = (), *, yes: bool = False
) -> None:
    """Run a recipe in its folder and show its table, what went wrong, and what is served."""
    from pauserec.data.dataset import QUARANTINE
    from pauserec.data.left_out import unreachable
    from pauserec.pipeline import run as run_pipeline
    from pauserec.results.finished import open_finished
    from pauserec.results.ledger import table_rows
    from pauserec.results.table import format_table
    from pauserec.runs import processes

    quiet_libraries()
    with processes.joined(), one_line_warnings():
        speaks = processes.is_main()  # for all of them
        content = run_pipeline(
            recipe,
            out,
            redo=redo,
            yes=yes,
            reuse=reuse,
            on_step=announce if speaks else say_nothing,
            on_again=announce_again if speaks else say_nothing,
            on_note=warn if speaks else say_nothing,
        )
        if not processes.is_main():
            return
    folder = open_finished(out)
    tested = {name: folder.finished(f"test-{name}") for name in content["models"]}
    fit = " and ".join(content["final_fit"])
    data = content["data"]
    caption = f"test split, {data['users']:,} users, seen items: {content['seen']}, final fit: {fit}"
    caption += f", ties: {data['ties']}" if "ties" in data else ""
    caption += f"\n* best on validation, which `pauserec recommend {out}` takes" if content["best"] else ""
    rows = table_rows(recipe, content, tested)
    console.print(format_table(rows, title=recipe.name, caption=caption, marked=content["best"]))
    if data.get("left_out"):
        say(f"data: {data['left_out']}: see {out / 'dataset' / QUARANTINE}")
    if content["seen"] == "drop" and (line := unreachable(data)):
        say(f"data: {line}")
    for line in content["notes"]:
        warn(line)
    say(f"report: {out / 'report.html'}")
