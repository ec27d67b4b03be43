"""What the commands print, beside their results."""

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pauserec.assets.named import AssetInfo
    from pauserec.config import Recipe
    from pauserec.records import Recommendations
    from pauserec.serving.recommend import TrainedRecommender

console = Console()
notes = Console(stderr=True)


def show_every_letter() -> None:
    """A terminal that cannot show a letter shows its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A line as it is: paths and names are no markup, and are not broken."""
    console.print(Text(text), soft_wrap=True)


def announce(name: str, done: bool) -> None:
    notes.print(Text(f"{'✓' if done else '▸'} {name}", style="dim" if done else "bold"))


def announce_again(name: str, why: str) -> None:
    notes.print(Text(f"  {name} is done again: {why}", style="dim"), soft_wrap=True)


def warn(line: str) -> None:
    notes.print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def inform(line: str) -> None:
    notes.print(Text(line, style="dim"), soft_wrap=True)


def say_nothing(*_: object) -> None:
    """The first of several processes speaks for all."""


def show_examples(out: Path) -> None:
    from pauserec.report.content import examples, main_model
    from pauserec.results.finished import open_finished

    run = open_finished(out)
    console.print(Text(f"\nRecommended by {main_model(run)}:"))
    for example in examples(run, users=3):
        console.print(Text(f"\nUser {example['user_id']}, lately: {'; '.join(example['history'][-5:])}"))
        for place, title in enumerate(example["recommendations"][:5], 1):
            console.print(Text(f"  {place}. {title}"))


def show_plan(recipe: "Recipe", out: Path, redo: tuple[str, ...], reuse: tuple[Path, ...]) -> None:
    from pauserec.cli.plan import make_plan

    quiet_libraries()
    plan = make_plan(recipe, out, redo, reuse)
    say(recipe.dump())
    if plan.stages:
        console.print(plan.table())
    console.print(Text(plan.totals()))


def recommendation_table(name: str, result: "Recommendations", recommender: "TrainedRecommender") -> Table:
    notice = []
    if result.fallback:
        notice.append(f"nothing known in this history: {result.fallback} instead")
    if result.unknown:
        notice.append(f"{len(result.unknown)} unknown ids dropped")
    if result.fewer_than_asked:
        notice.append("fewer items than asked for")
    table = Table("", title=Text(name), caption=Text("; ".join(notice)) if notice else None)
    table.add_column("item", overflow="fold")  # whole: it is there to be copied
    table.add_column("title")
    table.add_column("score")
    for place, scored in enumerate(result.items, 1):
        title = recommender.item(scored.item_id).title
        table.add_row(str(place), Text(scored.item_id), Text(title), f"{scored.score:.3f}")
    return table


def assets_table(known: "list[AssetInfo]") -> Table:
    table = Table()
    for column in ("name", "kind", "licence", "size", "from", "cached"):
        table.add_column(column, no_wrap=column == "name")  # whole: it is there to be copied
    for asset in known:
        table.add_row(asset.name, asset.kind, asset.licence, asset.size, asset.source, "yes" if asset.cached else "no")
    return table


def quiet_libraries() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def one_line_warnings() -> Iterator[None]:
    def show(message: Any, *_: Any, **__: Any) -> None:
        warn(str(message))

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module="pauserec")
        warnings.showwarning = show
        yield
