"""The command line: thin commands over the pipeline; heavy imports happen inside them."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from pauserec.cli.running import run_and_show
from pauserec.cli.terminal import (
    assets_table,
    console,
    inform,
    notes,
    one_line_warnings,
    quiet_libraries,
    recommendation_table,
    say,
    show_every_letter,
    show_examples,
    show_plan,
)
from pauserec.errors import in_a_line

app = typer.Typer(
    name="pauserec",
    help="Recommendation with large language models that think without words.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Check raw data; export a run's split.", no_args_is_help=True)
assets_app = typer.Typer(help="Named data sets and models.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(assets_app, name="assets")


OutputFormat = Literal["table", "json", "parquet"]
ComparisonFormat = Literal["table", "md", "html", "json"]
SplitFormat = Literal["recbole", "rectools"]
SeenItems = Literal["keep", "drop"]
Keep = Literal["rows", "all"]
HeldOut = Literal["validation", "test"]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `pauserec run` wrote.")]


@app.command()
def quickstart(out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/quickstart")) -> None:
    """Train and test PauseRec on MovieLens-100k in a few minutes on two CPU cores."""
    from pauserec.config import Recipe

    run_and_show(Recipe.load("quickstart"), out)
    show_examples(out)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .toml file.")],
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Seed of all training; its run folder is runs/NAME-seedN.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    redo: Annotated[list[str], typer.Option(metavar="STEP", help="Do a step again.")] = [],  # noqa: B006
    reuse: Annotated[list[Path], typer.Option(metavar="RUN", help="Take over finished steps of this run folder.")] = [],  # noqa: B006
    keep: Annotated[Keep, typer.Option(help="Keep what the table's rows need, or every stage's whole model.")] = "rows",
    yes: Annotated[
        bool, typer.Option("--yes", help="Run a recipe that is not made for these data or this machine.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
) -> None:
    """Run a recipe: whatever of it is not done yet."""
    from pauserec.config import Recipe
    from pauserec.pipeline import default_folder
    from pauserec.stages.batch_size import on_this_machine

    resolved = on_this_machine(Recipe.load(recipe, tuple(set_)))
    resolved = resolved if seed is None else resolved.seeded(seed)
    resolved = resolved.model_copy(update={"keep": keep}) if keep != "rows" else resolved
    folder = out or default_folder(resolved)
    if dry_run:
        show_plan(resolved, folder, tuple(redo), tuple(reuse))
    else:
        run_and_show(resolved, folder, tuple(redo), tuple(reuse), yes=yes)


@app.command()
def fit(
    events: Annotated[
        str, typer.Argument(metavar="EVENTS", help="Who chose what, and when: a file or folder of logs.")
    ],
    items: Annotated[
        str | None, typer.Argument(metavar="ITEMS", help="The catalogue: ids, titles, categories.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME of the events' file by default.")] = None,
    minutes: Annotated[float | None, typer.Option(min=1, help="Time for everything; 30, for --update a sixth.")] = None,
    update: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on from this run with the events since.")
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting that is not to be chosen.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Seed of all training.")] = 0,
    keep: Annotated[Keep, typer.Option(help="Keep what the table's rows need, or every stage's whole model.")] = "rows",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the recipe only.")] = False,
) -> None:
    """Make a recommender from your own logs in the time you give: choose a recipe that fits, then run it."""
    from pauserec.cli.fitting import fit_and_run

    fit_and_run(events, items, out, minutes, tuple(set_), seed, update=update, keep=keep, dry_run=dry_run)


@app.command()
def recommend(
    run: RunFolder,
    history: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Item ids, oldest first.")] = None,
    users: Annotated[Path | None, typer.Option(metavar="FILE", help="Histories, columns as in the run's logs.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Items per history.")] = 10,
    allow: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Recommend nothing but these items.")] = None,
    deny: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Never recommend these items.")] = None,
    category: Annotated[str | None, typer.Option(help="Recommend items of this category only.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Row of the run's table; the best on validation by default.")
    ] = None,
    format_: Annotated[OutputFormat, typer.Option("--format")] = "table",
    output: Annotated[Path | None, typer.Option(help="File to write, for json and parquet.")] = None,
) -> None:
    """Recommend items for a history, or for every user of a file."""
    from pauserec.cli import user_files
    from pauserec.runs.folder import Run
    from pauserec.serving.recommend import load

    user_files.check_output(format_, output, users)
    quiet_libraries()
    with one_line_warnings():
        names, wanted = user_files.read(history, users, user_files.data_as_read(Run.existing(run)))
        recommender = load(run, model)
        if model is None:
            inform(f"model: {recommender.row}, the best on validation; --model takes another row of the table")
        found = recommender.recommend(
            wanted,
            k,
            allow=[user_files.ids(allow)] * len(wanted) if allow is not None else None,
            deny=[user_files.ids(deny)] * len(wanted) if deny is not None else None,
            category=[category] * len(wanted),
        )
    if format_ == "table":
        for name, result in zip(names, found, strict=True):
            console.print(recommendation_table(name, result, recommender))
    else:
        user_files.write(names, found, format_, output)


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[HeldOut, typer.Option()] = "test",
    seen: Annotated[SeenItems | None, typer.Option(help="Another rule for seen items than the run's.")] = None,
) -> None:
    """Test a finished run again from its files, and compare with what the run wrote."""
    import orjson

    from pauserec.evaluation.ranks import ranks_of, read_ranks
    from pauserec.results.again import reevaluate
    from pauserec.results.finished import RANKS, RESULT
    from pauserec.results.table import TableRow, format_table

    quiet_libraries()
    results = reevaluate(run, split, seen)
    rows = [TableRow(name, result.metrics, None, result.ms_per_user) for name, result in results.items()]
    rule = {result.seen for result in results.values()}.pop()
    console.print(format_table(rows, title=f"{run} · {split} · seen items: {rule}"))
    if rule != orjson.loads((run / RESULT).read_bytes())["seen"]:
        return
    written = read_ranks(run / RANKS)
    different = {name: int((ranks_of(written, name, split) != result.ranks).sum()) for name, result in results.items()}
    for name, count in different.items():
        if count:
            notes.print(Text(f"{name}: {count} of {len(results[name].ranks)} ranks differ from the run's"))
    if not any(different.values()):
        console.print("Every rank equals the one the run wrote.")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or what --format json printed."),
    ],
    reference: Annotated[str | None, typer.Option(help="Row that every other one is tested against.")] = None,
    seen: Annotated[SeenItems | None, typer.Option(help="Rank again what was tested by another rule.")] = None,
    format_: Annotated[ComparisonFormat, typer.Option("--format")] = "table",
) -> None:
    """Put several runs into one table: intervals, significance, seeds, cost, slices."""
    from pauserec.compare.runs import compare as compare_runs
    from pauserec.compare.tables import origins, rendered, tables

    quiet_libraries()
    found = compare_runs(runs, reference, seen)
    if format_ == "table":
        for table in tables(found):
            for part in table.parts(console.width):
                console.print(part.rich())
        console.print(origins(found), markup=False)
    else:
        print(rendered(found, format_))


@app.command()
def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    model: Annotated[
        str | None, typer.Option(help="Row of the run's table; the best language model by default.")
    ] = None,
) -> None:
    """Write the trained model as a plain Hugging Face folder with tokenizer, IDs and model card."""
    from pauserec.serving.export import export_run

    quiet_libraries()
    say(f"wrote {export_run(run, folder, model)}")


@data_app.command("check")
def check_data(
    interactions: Annotated[Path, typer.Option(help="Interactions file.")],
    items: Annotated[Path | None, typer.Option(help="Items file.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "--quarantine", help="File for the unusable rows.")] = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a data.* setting.")] = [],  # noqa: B006
) -> None:
    """Say how raw files were read and count what is wrong; with --out, write the unusable rows and their reasons."""
    from pauserec.config import Recipe
    from pauserec.data.check import check, check_lines, check_table

    paths = {"interactions": str(interactions), "items": str(items) if items else None}
    recipe = Recipe.parse({"name": "check", "data": paths}, tuple(f"data.{e.removeprefix('data.')}" for e in set_))
    with one_line_warnings():
        report = check(recipe.data, out)
    console.print(check_table(report))
    for line in check_lines(report):
        say(line)


@data_app.command("export")
def export_data(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    format_: Annotated[SplitFormat, typer.Option("--format")] = "recbole",
    name: Annotated[str, typer.Option(help="RecBole's name of the data set.")] = "pauserec",
) -> None:
    """Write a run's users, items and split for RecBole or RecTools."""
    from pauserec.data.exports import export as write

    for path in write(run, folder, format_, name):
        say(f"wrote {path}")


@assets_app.command("list")
def list_assets() -> None:
    """List the data sets and models that can be named."""
    from pauserec.assets import named

    console.print(assets_table(named.known()))


@assets_app.command()
def fetch(name: Annotated[str, typer.Argument()]) -> None:
    """Bring a data set or model into the cache."""
    from pauserec.assets import named

    quiet_libraries()
    say(f"{name}: {named.fetch(name)}")


def main() -> None:
    """Entry point: errors a user can mend are one line and exit code 2."""
    show_every_letter()
    try:
        app()
    except Exception as error:
        if (message := in_a_line(error)) is None:
            raise
        notes.print(Text(f"error: {message}", style="red"), soft_wrap=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, as typer reports it
            notes.print("stopped; everything done so far is kept: the same command goes on from there")
        raise
