"""The README and the tutorial tell the truth: recipes parse, links lead somewhere, the tree lists every file."""

import re
import tomllib
from pathlib import Path

import pytest

from pauserec.config import CptConfig, ImplicitSftConfig, PausePretrainConfig, Recipe, SftConfig, shipped_recipes

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RECIPES = [
    (page.name, text)
    for page in PAGES
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_parse_and_survive_being_written_out(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name.rpartition("/")[2]
    assert Recipe.parse(tomllib.loads(recipe.dump())) == recipe


def test_the_papers_hyperparameters() -> None:
    recipe = Recipe.load("pauserec")
    stages = {stage.name: stage for stage in recipe.stages}
    assert recipe.quantizer.codebook_sizes == (256,) * 4
    assert recipe.prompt.history_length == 20
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_tree_lists_every_file() -> None:
    tree = re.search(r"```\nsrc/pauserec/\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree is not None
    named, folder = set(), ""
    for line in tree[1].splitlines():
        depth = len(line) - len(line.lstrip())
        names = re.match(r"\s*(\S+(?:, \S+)*)", line)
        assert names is not None
        for name in names[1].split(", "):
            if name.endswith("/"):
                folder = name
            elif name.endswith((".py", ".html")):
                named.add(name if depth == 2 else folder + name)
    files = (ROOT / "src/pauserec").rglob("*.py")
    expected = {path.relative_to(ROOT / "src/pauserec").as_posix() for path in files if path.stat().st_size}
    inits = {name for name in expected if name.endswith("/__init__.py")}
    assert {name for name in named if name.endswith(".py")} == expected - inits


def test_the_defaults_on_the_stage_pages() -> None:
    page = (ROOT / "docs/stages/cpt.md").read_text(encoding="utf-8")
    stage = Recipe.parse({"name": "x", "stages": [{"name": "cpt", "kind": "cpt"}]}).stages[0]
    for name in (
        "epochs",
        "weight_decay",
        "warmup",
        "batch_tokens",
        "accumulate",
        "max_grad_norm",
        "save_every",
        "seed",
    ):
        assert re.search(rf"\| `{name}` \| {getattr(stage, name)} \|", page), name


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
    from tables import PAGES, SHORT, WHOLE, filled

    texts = [page.read_text() for page in PAGES]
    assert any(WHOLE.search(text) for text in texts)
    assert any(SHORT.search(text) for text in texts)
    assert [filled(text) for text in texts] == texts, "run `python benchmarks/tables.py`"
