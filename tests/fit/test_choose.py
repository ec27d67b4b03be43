"""What is chosen for which data and how much time, with a machine whose pace is known."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pauserec.config import DataConfig, Recipe, Stage
from pauserec.fit import rules
from pauserec.fit.choose import choose
from pauserec.fit.draft import Chosen, Task
from pauserec.fit.machine import StagePace
from pauserec.fit.written import written
from pauserec.records import Dataset, Item


def dataset(users: int, items: int, length: int = 12) -> Dataset:
    rng = np.random.default_rng(0)
    entries = tuple(Item(f"i{n}", f"Title {n}") for n in range(items))
    sequences = tuple(rng.integers(items, size=length) for _ in range(users))
    return Dataset(entries, tuple(f"u{n:06d}" for n in range(users)), sequences, "none")


class Machine:
    """Runs so many tokens a second, and ranks so many users."""

    def __init__(self, recipe: Recipe, data: Dataset, *, tokens: float = 4000, users: float = 500) -> None:
        self.recipe, self.data, self.tokens, self.users = recipe, data, tokens, users

    name, gpu = "a made machine", False

    def pace(self, stage: Stage) -> StagePace:
        pauses = getattr(stage, "pauses", 0)
        tokens = self.data.interactions * (1 + pauses)
        steps = max(1, tokens // stage.batch_tokens)
        return StagePace(tokens / self.tokens / steps, steps, 1 / self.users)

    def tokens_per_epoch(self, stage: Stage) -> int:
        return 40 * len(self.data.items)


def chosen(data: Dataset, minutes: float = 30, **machine: float) -> Chosen:
    task = Task("own", DataConfig(interactions="e.csv"), minutes, spent=10, reading=1, embedding=5)
    return choose(task, data, lambda recipe, found: Machine(recipe, found, **machine))


def recipe_of(found: Chosen) -> Recipe:
    """What is written is read again, and is the same recipe."""
    text = written(found.content, found.reasons, "head\nmore")
    assert text.startswith("# head\n# more\n")
    assert max(map(len, text.splitlines())) <= 200
    again = Recipe.parse(tomllib.loads(text))
    assert again == Recipe.parse(tomllib.loads(text))
    return again


def test_a_small_shop_gets_every_row_and_one_code_an_item() -> None:
    recipe = recipe_of(chosen(dataset(2500, 800)))
    assert recipe.rows[:5] == ("popularity", "co-occurrence", "sasrec", "sft", "pauserec")
    assert len(recipe.quantizer.codebook_sizes) == 1
    assert recipe.quantizer.codebook_sizes[0] >= 1.1 * 800, "room for new items"
    assert recipe.stages[0].epochs > 5
    assert recipe.budget.minutes == 30


def test_every_setting_that_was_chosen_bears_its_reason() -> None:
    found = chosen(dataset(2500, 800))
    text = written(found.content, found.reasons, "head")
    for words in (
        "# 800 items: one code for each",
        "# On a CPU two layers",
        "# Half of the users have at least 12 events.",
    ):
        assert words in text


def test_expected_seconds_fill_most_of_the_minutes_and_no_more() -> None:
    for data in (dataset(2500, 800), dataset(20_000, 9_000)):
        found = chosen(data)
        assert sum(found.expected.values()) <= 30 * 60
        assert set(found.expected) == set(recipe_of(found).steps)


@pytest.mark.parametrize(
    ("make", "left_out"),
    [
        (lambda: chosen(dataset(2500, 800), minutes=1), "the language model"),
        (lambda: chosen(dataset(20_000, 9_000), minutes=8, tokens=1500), "sasrec"),
        (lambda: chosen(dataset(20_000, 9_000), minutes=6, tokens=1000), "pauses"),
        (lambda: chosen(dataset(30_000, 9_000), minutes=10, tokens=100), "the language model: an epoch would take"),
        (lambda: chosen(dataset(30_000, 900), users=40), "tests of all users"),
    ],
)
def test_what_does_not_fit_is_left_out_and_named(make: Callable[[], Chosen], left_out: str) -> None:
    found = make()
    recipe_of(found)
    assert any(line.startswith(left_out) for line in found.left_out), found.left_out


def test_many_data_in_little_time_are_learned_by_one_layer_without_pauses() -> None:
    found = chosen(dataset(40_000, 9_000), tokens=2000)
    recipe = recipe_of(found)
    sft, *others = recipe.stages
    assert sft.epochs <= rules.SHALLOW_MOST_EPOCHS
    assert [other.name for other in others] in ([], ["sft-2"])
    assert recipe.model.layers == rules.SHALLOW_LAYERS
    assert (sft.dropout, sft.layer_dropout) == rules.SHALLOW_DROPOUTS
    assert any(line.startswith("pauses") for line in found.left_out)
    assert recipe_of(chosen(dataset(40_000, 9_000), minutes=120, tokens=2000)).model.layers == rules.CPU_LAYERS


def test_pauses_get_the_steps_that_they_need_or_are_left_out() -> None:
    slow, fast = (chosen(dataset(2500, 800), minutes=8, tokens=tokens) for tokens in (1200, 4000))
    assert [stage.name for stage in recipe_of(slow).stages] == ["sft"]
    assert any(line.startswith("pauses") for line in slow.left_out)
    *_, implicit = recipe_of(fast).stages[:3]
    steps = 2 * dataset(2500, 800).interactions / implicit.batch_tokens * implicit.epochs
    assert steps >= rules.FEWEST_PAUSE_STEPS


def test_few_events_wait_longer_for_a_better_validation() -> None:
    few, many = (recipe_of(chosen(dataset(users, 300))).stages[0] for users in (500, 2500))
    assert (few.patience, many.patience) == (rules.LONG_PATIENCE, rules.PATIENCE)


def test_time_that_is_left_goes_to_other_regularisation() -> None:
    few, much = (recipe_of(chosen(dataset(500, 300), minutes=minutes)) for minutes in (3, 30))
    names = [stage.name for stage in much.stages if stage.kind == "sft"]
    assert names == ["sft", "sft-2", "sft-3"]
    assert len({(stage.dropout, stage.learning_rate) for stage in much.stages if stage.kind == "sft"}) == 3
    assert [stage.name for stage in few.stages if stage.kind == "sft"] == ["sft"]


def test_without_a_language_model_the_recipe_counts() -> None:
    recipe = recipe_of(chosen(dataset(300, 80), minutes=1))
    assert not recipe.makes_ids
    assert {"popularity", "co-occurrence"} <= set(recipe.rows)


def test_more_items_than_one_code_serves_get_two() -> None:
    assert len(rules.codes(rules.ONE_CODE_UP_TO)) == 1
    sizes = rules.codes(2_000_000)
    assert len(sizes) == 2
    assert sizes[0] * sizes[1] >= 8 * 2_000_000
    for items in (1, 20, 800, 43_890, rules.ONE_CODE_UP_TO):
        (size,) = rules.codes(items)
        assert items < size <= 65_536


def test_many_codes_are_told_apart_by_drawn_ones() -> None:
    few, many = (recipe_of(chosen(dataset(5_000, items))).stages[0] for items in (800, 9_000))
    assert getattr(few, "negatives", 0) is None
    assert getattr(many, "negatives", 0) == rules.NEGATIVES


def test_few_data_are_cut_into_smaller_batches() -> None:
    assert rules.batch_tokens(5_000) < rules.batch_tokens(40_000) <= rules.BATCH_TOKENS[1]
    assert rules.batch_tokens(10) == rules.BATCH_TOKENS[0]


def settings(stage: Stage) -> dict[str, Any]:
    return stage.model_dump()


def test_pauses_are_learned_from_what_sft_predicts() -> None:
    stages = {stage.name: settings(stage) for stage in recipe_of(chosen(dataset(2500, 800))).stages}
    assert stages["implicit_sft"]["distill"] == rules.DISTILL
    assert stages["implicit_sft"]["starts_from"] == ("sft", "pause_pretrain")


def test_the_text_of_a_recipe_holds_hostile_names(tmp_path: Path) -> None:
    content = {"name": "own", "data": {"interactions": 'a"b\\c.csv', "columns": {"user": "x = 1]\n[data"}}}
    again = tomllib.loads(written(content, {}, "head\n# not a key"))
    assert again["data"]["columns"]["user"] == "x = 1]\n[data"
