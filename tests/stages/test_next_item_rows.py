"""Rows made by array operations are what windows give one by one, token for token."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pauserec.config import Format, PromptConfig, Recipe
from pauserec.data.dataset import load_dataset
from pauserec.llm.prompts import Prompts
from pauserec.llm.tree.samples import Branch, Sample, collate, labelled
from pauserec.llm.vocabulary import find_vocabulary
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item_rows import RowMaker, Window
from pauserec.training.batches import IGNORE, targets_of, without_targets

SEQUENCES = [np.array([3, 1, 4, 15, 9, 2, 6, 5]), np.array([7, 0]), np.array([8, 11, 10, 12, 14])]


def sample_of(prompts: Prompts, window: Window, *, trunk_counts: bool, loss_on_end: bool) -> Sample:
    """A window as a sample, entry by entry: the definition that the array operations are held to."""
    items = SEQUENCES[window.user]

    def continuation(target: int) -> tuple[list[int], list[bool]]:
        suffix, answer = prompts.suffix, prompts.answer(target)
        if loss_on_end:
            begins = suffix[-1:] == [prompts.vocabulary.begin]
            return suffix + answer, [False] * (len(suffix) - begins) + [True] * (begins + len(answer))
        return suffix + answer, [False] * len(suffix) + [prompts.is_code(token) for token in answer]

    trunk: list[int] = []
    marks: list[bool] = []
    ends = {}
    for position in range(window.start, window.stop):
        if position not in window.left_out:
            entry = prompts.entries[items[position]]
            counts = trunk_counts and position >= window.fresh
            trunk += entry
            marks += [counts and prompts.is_code(token) for token in entry]
        ends[position + 1] = len(trunk)
    if window.targets == (window.stop,):
        answer, answer_marks = continuation(items[window.stop])
        return Sample(*labelled(trunk + answer, marks + answer_marks))
    labels = np.where([*marks[1:], False], np.asarray([*trunk[1:], 0]), IGNORE)
    branches = [Branch(ends[t], *labelled(*continuation(items[t]))) for t in window.targets]
    return Sample(np.asarray(trunk, dtype=np.int64), labels, tuple(branches))


@pytest.fixture(scope="module")
def prompts_of(tiny_run: Path, tiny_recipe: Recipe) -> dict[tuple[str, int], Prompts]:
    from transformers import AutoTokenizer

    ids = SemanticIds.load(tiny_run / "semantic_ids")
    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "base")
    items, found = load_dataset(tiny_run / "dataset").items, {}
    for template in ("chat", "ids"):
        for pauses in (0, 2):
            config = PromptConfig(template="ids") if template == "ids" else tiny_recipe.prompt
            form = Format(("title",) if pauses else (), pauses, 6)
            found[template, pauses] = Prompts(tokenizer, find_vocabulary(tokenizer, ids), ids, items, config, form)
    return found


@st.composite
def some_windows(draw: st.DrawFn, *, branches: bool) -> list[Window]:
    found = []
    for _ in range(draw(st.integers(1, 4))):
        user = draw(st.integers(0, len(SEQUENCES) - 1))
        stop = draw(st.integers(1, len(SEQUENCES[user]) - 1))
        start, fresh = draw(st.integers(0, stop - 1)), draw(st.integers(1, stop))
        targets = draw(st.sets(st.integers(start + 1, stop), min_size=1)) if branches else {stop}
        left_out = draw(st.sets(st.integers(start + 1, stop - 1))) if stop > start + 1 else set()
        found.append(Window(user, start, stop, tuple(sorted(targets)), fresh, frozenset(left_out)))
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), template=st.sampled_from(["chat", "ids"]), pauses=st.sampled_from([0, 2]))
@pytest.mark.parametrize("trunk_counts", [False, True])
@pytest.mark.parametrize("loss_on_end", [False, True])
def test_a_row_is_its_windows_one_by_one(
    prompts_of: dict[tuple[str, int], Prompts],
    data: st.DataObject,
    template: str,
    pauses: int,
    trunk_counts: bool,
    loss_on_end: bool,
) -> None:
    prompts = prompts_of[template, pauses]
    chosen = data.draw(some_windows(branches=bool(prompts.suffix)))
    kind = {"trunk_counts": trunk_counts, "loss_on_end": loss_on_end}
    found = RowMaker(prompts, SEQUENCES, **kind).row(chosen)
    wanted = collate([sample_of(prompts, window, **kind) for window in chosen], prompts.opening)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    for part in ("document", "branch", "place", "limit"):
        np.testing.assert_array_equal(getattr(found.layout, part), getattr(wanted.layout, part))


def test_an_item_left_out_at_the_end_is_no_place_to_go_on_from(
    prompts_of: dict[tuple[str, int], Prompts],
) -> None:
    prompts = prompts_of["chat", 0]
    maker = RowMaker(prompts, SEQUENCES, trunk_counts=False, loss_on_end=False)
    whole = Window(0, 0, 5, (2, 5), 1)
    thinned = replace(whole, left_out=frozenset({3, 4}))
    lengths = [len(prompts.entries[item]) for item in SEQUENCES[0]]
    for window, shown in ((whole, 5), (thinned, 3)):
        layout = maker.row([window], opening=False).layout
        assert layout.limit[layout.branch == 1][0] == sum(lengths[:shown])


def test_targets_stand_level_by_level_with_others_behind() -> None:
    levels = [slice(10, 20), slice(20, 30)]
    found = targets_of(np.array([IGNORE, 25, 12, 99, IGNORE, 11, 21]), levels)
    assert found["places"].tolist() == [2, 5, 1, 6, 3]
    assert found["labels"].tolist() == [12, 11, 25, 21, 99]
    assert (found["counts"], found["count"]) == ((2, 2), 5)
    assert targets_of(np.array([IGNORE, 25, 12]))["places"].tolist() == [1, 2]
    empty = without_targets({"tokens": "kept", **found})
    assert (empty["counts"], empty["count"], empty["tokens"], len(empty["places"])) == ((0, 0), 0, "kept", 0)
