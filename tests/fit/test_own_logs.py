"""`pauserec fit` as a person calls it: their files in, a recommender out, and what happens with files that cannot do."""

import csv
import tomllib
from pathlib import Path

import orjson
import pytest

import pauserec
from commands import cli
from pauserec.cli.fitting import fit_and_run
from pauserec.config import Recipe
from pauserec.errors import PauserecError, in_a_line

USERS, ITEMS = 60, 40


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """The small data set under a shop's names: purchases.csv, since.csv (what came later) and products.csv."""
    folder = tmp_path_factory.mktemp("shop")
    with (small_data / "interactions.csv").open() as file:
        rows = [(row["user_id"], row["item_id"], int(row["timestamp"])) for row in csv.DictReader(file)]
    latest = [(user, f"i{(int(item[1:]) + 1) % ITEMS}", time + 1) for user, item, time in rows if time % 100 == 11]
    latest += [("u0", "just in", 1_000_000_050), ("u1", "just in", 1_000_000_050)]
    for name, part in (("purchases.csv", rows), ("since.csv", latest)):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([("customer", "product", "bought_at"), *part])
    entries = [orjson.loads(line) for line in (small_data / "items.jsonl").read_bytes().splitlines()]
    entries.append({"item_id": "just in", "title": "new red bird", "categories": ["red"]})
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("sku", "name", "category"))
        writer.writerows((entry["item_id"], entry["title"], " > ".join(entry["categories"])) for entry in entries)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_model: Path, tiny_embedder: Path) -> list[str]:
    """Settings that make a run a matter of seconds."""
    chosen = {
        "model.name": tiny_model,
        "embedder.name": tiny_embedder,
        "stages.sft.epochs": 6,
        "stages.implicit_sft.epochs": 2,
        "baselines.sasrec.epochs": 2,
        "evaluation.bootstrap": 20,
    }
    return [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="session")
def fitted(shop: Path, tiny: list[str]) -> Path:
    """A finished fit."""
    done = cli("fit", "purchases.csv", "products.csv", "--minutes", 8, *tiny, folder=shop)
    assert done.returncode == 0, done.stderr
    assert "purchases.csv: user = customer, item = product, time = bought_at" in done.stdout
    assert "products.csv: item = sku, title = name, categories = category" in done.stdout
    return shop / "runs" / "purchases"


def test_two_files_become_a_recommender(fitted: Path) -> None:
    content = orjson.loads((fitted / "result.json").read_bytes())
    assert list(content["models"])[:5] == ["popularity", "co-occurrence", "sasrec", "sft", "pauserec"]
    recommender = pauserec.load(fitted)
    assert recommender.row == content["best"]
    assert len(recommender.recommend([["i3", "i4"]], k=5)[0].items) == 5


def test_what_was_chosen_is_an_ordinary_recipe_with_its_reasons(fitted: Path) -> None:
    text = (fitted / "fit.toml").read_text()
    assert text.startswith("# Written by `pauserec fit` for 60 users, 40 items and 720 events")
    assert Recipe.parse(tomllib.loads(text)).dump() == (fitted / "recipe.toml").read_text()


def test_the_same_command_again_goes_on_with_what_is_there(fitted: Path, shop: Path, tiny: list[str]) -> None:
    done = cli("fit", "purchases.csv", "products.csv", "--minutes", 8, *tiny, folder=shop)
    assert done.returncode == 0, done.stderr
    assert "going on with" in done.stdout
    assert "▸" not in done.stderr, "no step is done again"


def test_a_setting_of_what_is_left_out_is_named_and_a_misspelt_one_is_an_error(
    shop: Path, tiny: list[str], tmp_path: Path
) -> None:
    """In a minute there is no language model to set anything of."""
    folder = ("purchases.csv", "products.csv", "--minutes", 1, "--dry-run", "--out", tmp_path / "run")
    done = cli("fit", *folder, *tiny, folder=shop)
    assert done.returncode == 0, done.stderr
    assert "not used: --set stages.implicit_sft.epochs=2, for what it sets was left out" in done.stdout
    wrong = cli("fit", *folder, "--set", "evaluation.bootsrap=20", folder=shop)
    assert wrong.returncode != 0
    assert "bootsrap" in wrong.stderr


def test_a_run_of_its_recipe_is_the_same_run(fitted: Path, shop: Path) -> None:
    done = cli("run", fitted / "fit.toml", "--out", fitted, folder=shop)
    assert done.returncode == 0, done.stderr
    assert "▸" not in done.stderr


def test_recommend_takes_the_best_row_and_says_so(fitted: Path) -> None:
    best = orjson.loads((fitted / "result.json").read_bytes())["best"]
    done = cli("recommend", fitted, "--history", "i3,i4")
    assert done.returncode == 0, done.stderr
    assert f"model: {best}, the best on validation" in done.stderr


def test_the_weights_of_a_finished_run_are_kept_once(fitted: Path) -> None:
    sizes = {step: sum(p.stat().st_size for p in (fitted / step).glob("*.safetensors")) for step in ("base", "sft")}
    assert (fitted / "sft" / "difference.safetensors").exists()
    assert not (fitted / "sft" / "config.json").exists()
    assert sizes["sft"] < sizes["base"]


def test_the_second_day_goes_on_from_the_first(fitted: Path, shop: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in fitted.rglob("*") if path.name != ".lock"}
    settings = ["--set", "evaluation.bootstrap=20"]
    done = cli("fit", "since.csv", "products.csv", "--update", fitted, "--minutes", 2, *settings, folder=shop)
    assert done.returncode == 0, done.stderr
    assert "1 new items" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in fitted.rglob("*") if path.name != ".lock"} == before
    updated = fitted.with_name("purchases-since")
    content = orjson.loads((updated / "result.json").read_bytes())
    assert {"before", "popularity", "co-occurrence"} < set(content["models"])
    assert content["data"]["items"] == ITEMS + 1
    plan = cli("run", updated / "recipe.toml", "--out", updated, "--dry-run", folder=shop)
    assert "would run: nothing" in plan.stdout, plan.stderr
    found = pauserec.load(updated, "before").recommend([["i3", "just in"]], k=5)[0]
    assert not found.unknown
    ids = [pauserec_ids(run) for run in (fitted, updated)]
    assert ids[0].items() < ids[1].items(), "known items keep their IDs"


def pauserec_ids(run: Path) -> dict[str, tuple[int, ...]]:
    from pauserec.data.dataset import load_dataset
    from pauserec.semantic_ids.codes import SemanticIds

    items, codes = load_dataset(run / "dataset").items, SemanticIds.load(run / "semantic_ids").codes
    return {item.item_id: tuple(row) for item, row in zip(items, codes.tolist(), strict=True)}


def test_a_dry_run_writes_the_recipe_alone(shop: Path, tiny: list[str], tmp_path: Path) -> None:
    out = tmp_path / "dry"
    done = cli("fit", shop / "purchases.csv", "--dry-run", "--out", out, *tiny)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in out.iterdir()] == ["fit.toml"]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], "is empty"),
        (["user_id,item_id,timestamp"], "no usable interaction"),
        (["user_id,item_id,timestamp", *(f"one,i{n},{n + 1}" for n in range(50))], "no user is left"),
        (["a,b", "1,2"], "looks like the user's"),
    ],
    ids=["nothing", "no events", "one user", "no columns"],
)
def test_files_that_cannot_do_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logs.csv").write_text("\n".join(lines))
    assert error in refused("logs.csv", None)
    assert not Path("runs").exists()


def refused(events: str | Path, items: str | Path | None, out: Path | None = None, update: Path | None = None) -> str:
    """The line that a fit ends with, exit code 2 with it, as the command line prints it."""
    beside = str(items) if items else None
    with pytest.raises(PauserecError) as error:
        fit_and_run(str(events), beside, out, None, (), 0, update=update, keep="rows", dry_run=False)
    line = in_a_line(error.value)
    assert line is not None
    assert "\n" not in line
    return line


def test_a_catalogue_that_is_not_there_is_one_line(shop: Path, tmp_path: Path) -> None:
    done = cli("fit", shop / "purchases.csv", tmp_path / "none.csv", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "none.csv is no file" in done.stderr
    assert not (tmp_path / "out").exists()


def test_in_a_minute_counting_fits_and_the_rest_is_named(shop: Path, tmp_path: Path) -> None:
    done = cli("fit", shop / "purchases.csv", shop / "products.csv", "--minutes", 1, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "left out: the language model" in done.stdout
    assert pauserec.load(tmp_path / "out").recommend([["i3"]], k=5)[0].items


def test_an_update_does_not_write_into_the_run_it_goes_on_from(fitted: Path, shop: Path) -> None:
    assert "choose another --out" in refused(shop / "since.csv", None, fitted, fitted)
