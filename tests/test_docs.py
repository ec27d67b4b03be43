"""The README and the tutorial tell the truth: recipes parse, links lead somewhere, the tree lists every file."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from commands import cli
from data_sets import fetched
from pauserec.assets.named import embedder_path
from pauserec.config import (
    CptConfig,
    EmbedderConfig,
    ImplicitSftConfig,
    PausePretrainConfig,
    RearecConfig,
    Recipe,
    SftConfig,
)
from pauserec.config.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RECIPES = [
    (page.name, text)
    for page in PAGES
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


def test_the_papers_hyperparameters() -> None:
    recipe = Recipe.load("pauserec")
    stages = {stage.name: stage for stage in recipe.stages}
    assert recipe.quantizer.codebook_sizes == (256,) * 4
    assert recipe.prompt.history_length == 50
    assert [(stage.epochs, stage.learning_rate) for stage in recipe.stages] == [
        (3, 1e-4),
        (6, 1e-5),
        (2, 1e-3),
        (5, 5e-5),
    ]
    assert stages["implicit_sft"].pauses == 5
    assert recipe.evaluation.seen == "keep"
    assert Recipe.load("sft").stages == recipe.stages[:2]


@pytest.mark.parametrize(("page", "text"), RECIPES, ids=[page for page, _ in RECIPES])
def test_recipes_in_the_documents_parse(page: str, text: str) -> None:
    Recipe.parse(tomllib.loads(text))


def test_the_tutorials_first_steps_give_what_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    blocks = [block for _, block in re.findall(r"```(\w*)\n(.*?)```", text.partition("## 3.")[0], re.DOTALL)]
    make_library, unnamed, error, named, table, quarantine = blocks
    subprocess.run([sys.executable, "-c", make_library], cwd=tmp_path, check=True)
    found = [cli(*shlex.split(command.replace("\\\n", ""))[1:], folder=tmp_path) for command in (unnamed, named)]
    assert (found[0].returncode, found[0].stderr.strip()) == (2, error.strip())
    shown = [line.rstrip() for line in found[1].stdout.splitlines()]
    assert shown == [line.rstrip() for line in table.splitlines()]
    assert (tmp_path / "quarantine.jsonl").read_text() == quarantine


def test_fit_finds_in_the_tutorials_files_what_it_says(tmp_path: Path) -> None:
    fetched("an embedder", lambda: embedder_path(EmbedderConfig().name))
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    make_library = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    command, said, data = re.findall(r"```\n(.*?)```", text.partition("## 3.")[2], re.DOTALL)[:3]
    subprocess.run([sys.executable, "-c", make_library], cwd=tmp_path, check=True)
    found = cli(*shlex.split(command)[1:], "--minutes", 1, folder=tmp_path)  # too few to measure the language model
    assert found.returncode == 0, found.stderr
    shown = [line.rstrip() for line in found.stdout.splitlines() if not line.startswith("left out")]
    assert shown == said.splitlines()
    assert data in (tmp_path / "runs/loans/fit.toml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tree_lists_every_file() -> None:
    tree = re.search(r"```\nsrc/pauserec/\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree is not None
    named: set[str] = set()
    folders: list[str] = []
    for line in tree[1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth - 1 :] = [name] if name.endswith("/") else []
        if name.endswith(".py"):
            named.add("".join(folders) + name)
    files = (ROOT / "src/pauserec").rglob("*.py")
    expected = {path.relative_to(ROOT / "src/pauserec").as_posix() for path in files if path.stat().st_size}
    inits = {name for name in expected if name.endswith("/__init__.py")}
    assert named == expected - inits


@pytest.mark.parametrize(
    ("page", "settings"),
    [
        ("stages/cpt", CptConfig),
        ("stages/sft", SftConfig),
        ("stages/pause_pretrain", PausePretrainConfig),
        ("stages/implicit_sft", ImplicitSftConfig),
        ("baselines", RearecConfig),
    ],
)
def test_the_defaults_on_the_pages_are_those_of_the_code(page: str, settings: type[Settings]) -> None:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^\[|][^|]*|`\[[^|]*) \|", text, re.MULTILINE)
    assert len(rows) > 4
    for names, values in rows:
        written = tomllib.loads("x = [{}]".format(values.replace("`", "").replace("null", '"null"')))["x"]
        written = [None if value == "null" else tuple(value) if isinstance(value, list) else value for value in written]
        assert written == [settings.model_fields[name].default for name in re.findall(r"`(\w+)`", names)], names


def test_every_test_that_the_promises_name_exists() -> None:
    page = (ROOT / "docs/robustness.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\|.*\|$", page, re.MULTILINE):
        file = None
        for path, test in re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", row):
            file = path or file
            assert file is not None, row
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{test}"


@pytest.mark.parametrize(
    ("settings", "pages"),
    [
        (CptConfig, ["cpt"]),
        (SftConfig, ["sft", "cpt"]),
        (PausePretrainConfig, ["pause_pretrain", "cpt"]),
        (ImplicitSftConfig, ["implicit_sft", "sft", "cpt"]),
    ],
)
def test_every_setting_of_a_stage_stands_on_its_page(settings, pages: list[str]) -> None:
    text = "".join((ROOT / f"docs/stages/{page}.md").read_text(encoding="utf-8") for page in pages)
    missing = [name for name in settings.model_fields if name not in {"name", "kind"} and f"`{name}`" not in text]
    assert not missing


def test_result_tables_are_those_of_the_committed_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from tables import PAGES, RUN, SHORT, WHOLE, filled

    texts = [page.read_text() for page in PAGES]
    for kind in (WHOLE, SHORT, RUN):
        assert any(kind.search(text) for text in texts)
    assert [filled(text) for text in texts] == texts, "run `python benchmarks/tables.py`"


def test_the_results_say_of_published_numbers_what_the_tables_say() -> None:
    sources = json.loads((ROOT / "src/pauserec/compare/published.json").read_bytes())["sources"]
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    said = re.findall(r"Published numbers are claims of others\. sasrec: (.*?);", text)
    assert said == [sources["sasrec"]] * len(said) != []
    assert "strictly" in sources["sasrec"]
    assert "may include the validation events" not in text
