"""batch_tokens = "auto": a figure for this machine, and the learning rate that goes with it."""

import pytest

from pauserec.config import Recipe
from pauserec.errors import RecipeError
from pauserec.stages import batch_size
from pauserec.stages.batch_size import REFERENCE, on_this_machine

AUTO = ("stages.sft.batch_tokens=auto", "stages.sft.learning_rate=1e-3")


def test_the_figure_and_its_learning_rate_stand_in_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "tokens_that_fit", lambda recipe: 4 * REFERENCE)
    recipe = Recipe.load("quickstart", AUTO)
    found = {stage.name: stage for stage in on_this_machine(recipe).stages}
    assert (found["sft"].batch_tokens, found["sft"].learning_rate) == (4 * REFERENCE, 2e-3)
    assert [stage for stage in on_this_machine(recipe).stages if stage.name != "sft"] == [
        stage for stage in recipe.stages if stage.name != "sft"
    ]
    assert on_this_machine(on_this_machine(recipe)) == on_this_machine(recipe)
    assert 'batch_tokens = "auto"' not in on_this_machine(recipe).dump()


def test_without_a_gpu_it_is_what_learning_rates_are_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    sft = on_this_machine(Recipe.load("quickstart", AUTO)).stages[1]
    assert (sft.name, sft.batch_tokens, sft.learning_rate) == ("sft", REFERENCE, 1e-3)


def test_larger_models_get_smaller_batches_and_none_is_too_small() -> None:
    memory = 80e9
    sizes = [batch_size._fitting(memory, *shape) for shape in ((135e6, 30 * 576), (1.7e9, 28 * 2048), (6e9, 36 * 4096))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == REFERENCE
    assert all(size % batch_size.MULTIPLE == 0 for size in sizes)
    assert sizes[0] <= batch_size.MOST


def test_a_stage_that_nobody_gave_a_figure_says_so() -> None:
    sft = Recipe.load("quickstart", AUTO).stages[1]
    with pytest.raises(RecipeError, match=r"stages\.sft\.batch_tokens is auto"):
        _ = sft.batch_size


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stages.sft.batch_tokens=many", "stages.sft.*batch_tokens is a number"),
        ("stages.sft.batch_tokens=true", "batch_tokens is a number"),
        ("stages.sft.batch_tokens=8", "stages.sft.batch_tokens.*at least 64, or"),
    ],
)
def test_other_words_are_refused(setting: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.load("quickstart", (setting,))


def test_baselines_know_no_auto() -> None:
    with pytest.raises(RecipeError, match="auto is for language models"):
        Recipe.load("baselines/sasrec", ("baselines.sasrec.batch_tokens=auto",))
