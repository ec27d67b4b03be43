"""A finished run recommends for histories of ids, and says what happened to each."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

import pauserec
from pauserec.errors import RecipeError, RunError
from pauserec.llm.decode.decoder import decode
from pauserec.llm.tree.cache import branch_tokens


def test_recommend_says_what_happened_to_each_history(tiny_run: Path) -> None:
    recommender = pauserec.load(tiny_run, "pauserec")
    with pytest.warns(UserWarning, match=r"2 history entries \(1 ids\) are not in the catalogue"):
        known, partly, nothing, empty = recommender.recommend([["i1", "i2"], ["ghost", "i1"], ["ghost"], []], k=5)
    assert len(known.items) == 5
    assert known.unknown == ()
    assert not {"i1", "i2"} & {scored.item_id for scored in known.items}, "seen items are dropped"
    assert partly.unknown == ("ghost",)
    assert partly.fallback is None
    assert nothing.fallback == empty.fallback == "popularity"
    assert len(empty.items) == 5


def test_asking_for_more_than_the_catalogue_holds_says_so(tiny_run: Path) -> None:
    (found,) = pauserec.load(tiny_run, "pauserec").recommend([["i1"]], k=100)
    assert len(found.items) == 39
    assert found.fewer_than_asked
    assert len({scored.item_id for scored in found.items}) == 39


def test_each_history_has_its_own_limits(tiny_run: Path) -> None:
    recommender = pauserec.load(tiny_run, "pauserec")
    histories = [["i1", "i2"], ["i1", "i2"], ["ghost"]]
    with pytest.warns(UserWarning, match="ghost"):
        free = recommender.recommend(histories, k=5)
    best = free[0].items[0].item_id
    with (
        pytest.warns(UserWarning, match="ghost"),
        pytest.warns(
            UserWarning, match="1 ids of allow are not in the catalogue and were dropped, for example 'nowhere'"
        ),
        pytest.warns(UserWarning, match="1 ids of deny are not in the catalogue and were dropped, for example 'gone'"),
    ):
        denied, allowed, fallback = recommender.recommend(
            histories,
            k=5,
            deny=[[best], ["gone"], []],
            allow=[None, ["i7", "i9", "nowhere"], None],
            category=[None, None, "red"],
        )
    assert best not in {scored.item_id for scored in denied.items}
    assert {scored.item_id for scored in allowed.items} == {"i7", "i9"}
    assert allowed.fewer_than_asked
    assert fallback.fallback == "popularity"
    assert all("red" in recommender.item(scored.item_id).categories for scored in fallback.items)


def test_kept_prompts_change_no_recommendation(tiny_run: Path) -> None:
    cold, warm = pauserec.load(tiny_run, "pauserec"), pauserec.load(tiny_run, "pauserec", cache_bytes=10**8)
    for shown in (1, 2, 3, 5):
        history = [f"i{n}" for n in range(shown)]
        expected, found = (r.recommend([history], k=10)[0].items for r in (cold, warm))
        assert [scored.item_id for scored in found] == [scored.item_id for scored in expected]


def test_many_histories_are_answered_in_blocks(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories = [[f"i{n}"] if n % 3 else ["unknown"] for n in range(11)]
    deny = [[f"i{n + 1}"] for n in range(11)]
    recommender = pauserec.load(tiny_run, "pauserec")
    with pytest.warns(UserWarning, match="4 history entries"):
        whole = recommender.recommend(histories, k=5, deny=deny)
    monkeypatch.setattr("pauserec.serving.recommend.BLOCK", 2)
    with pytest.warns(UserWarning, match="4 history entries"):
        assert [x.fallback for x in whole] == [x.fallback for x in recommender.recommend(histories, k=5, deny=deny)]
    for one, other in zip(whole, recommender.recommend(histories, k=5, deny=deny), strict=True):
        assert [scored.item_id for scored in one.items] == [scored.item_id for scored in other.items]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"category": ["rad"]}, r"no item has the category 'rad': did you mean red"),
        ({"deny": [["i1"], ["i2"]]}, r"deny has 2 entries for 1 histories"),
        ({"allow": ["i1"]}, r"allow holds a text where a list of ids belongs"),
    ],
)
def test_wrong_limits_are_refused(tiny_run: Path, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        pauserec.load(tiny_run, "pauserec").recommend([["i1"]], k=3, **limits)


def test_a_flat_list_of_ids_is_refused(tiny_run: Path) -> None:
    with pytest.raises(RecipeError, match="histories holds a text"):
        pauserec.load(tiny_run, "pauserec").recommend(["i1", "i2"])  # type: ignore[list-item]
    with pytest.raises(RecipeError, match="histories holds 50, but ids are text: write '50'"):
        pauserec.load(tiny_run, "pauserec").recommend([[50, 181]])  # type: ignore[list-item]


def test_whatever_can_be_gone_through_is_a_list_of_ids(tiny_run: Path) -> None:
    """An iterator was used up by the check of its ids, and its user then got what is popular."""
    recommender = pauserec.load(tiny_run, "pauserec")
    expected = recommender.recommend([["i1", "i2"], ["i3", "i4"]], k=3, deny=[["i5"], ["i6"]])
    for histories, deny in (
        ((iter(ids) for ids in (["i1", "i2"], ["i3", "i4"])), (iter([i]) for i in ("i5", "i6"))),
        (np.array([["i1", "i2"], ["i3", "i4"]]), np.array([["i5"], ["i6"]])),
        (pl.Series([["i1", "i2"], ["i3", "i4"]]), pl.Series([["i5"], ["i6"]])),
    ):
        assert recommender.recommend(histories, k=3, deny=deny) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("histories", "more", "message"),
    [
        ([None], {}, "histories holds None where a list of ids belongs"),
        ([["i1", None]], {}, "holds None, but ids are text"),
        ([["i1"]], {"deny": [None]}, "deny holds None where a list"),
        ([["i1"]], {"category": [3]}, "category holds 3, but categories are text"),
        ([["i1"]], {"k": 2.5}, "k is 2.5: ask for a whole number"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(tiny_run: Path, histories: Any, more: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        pauserec.load(tiny_run, "pauserec").recommend(histories, **more)


def test_k_below_one_is_refused(tiny_run: Path) -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        pauserec.load(tiny_run, "pauserec").recommend([["i1"]], k=0)


def test_every_row_of_the_table_recommends(tiny_run: Path) -> None:
    for model in ("popularity", "co-occurrence"):
        (found,) = pauserec.load(tiny_run, model).recommend([["i1", "i2"]], k=5)
        assert len(found.items) == 5
    assert pauserec.load(tiny_run, "co-occurrence").recommend([["i1", "i2"]], k=1)[0].items[0].item_id == "i3"
    with pytest.raises(RunError, match="choose one of popularity, co-occurrence, sft"):
        pauserec.load(tiny_run, "nope")


def test_of_an_item_chosen_twice_the_first_is_shown_as_in_training(tiny_run: Path) -> None:
    recommender = pauserec.load(tiny_run, "pauserec")
    (once,), (twice,) = (recommender.recommend([history], k=5) for history in (["i4", "i7"], ["i4", "i7", "i4"]))
    assert twice == once


def test_one_list_for_all_histories_limits_each(tiny_run: Path) -> None:
    recommender = pauserec.load(tiny_run, "pauserec")
    histories, allow = [["i1"], ["i2"], ["i3"]], [f"i{n}" for n in range(20)]
    shared = recommender.recommend(histories, k=5, allow=[allow] * 3, category=["red"] * 3)
    apart = recommender.recommend(histories, k=5, allow=[list(allow) for _ in range(3)], category=["red"] * 3)
    assert shared == apart
    chosen = {scored.item_id for found in shared for scored in found.items}
    assert chosen
    assert chosen <= {item for item in allow if "red" in recommender.item(item).categories}


def test_a_wide_beam_takes_fewer_histories_at_once(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for the branches grows with the beam: with it, memory would grow without a bound."""
    sizes: list[int] = []

    def counted(model: Any, catalogue: Any, prompts: Any, beams: int, **rest: Any) -> Any:
        sizes.append(
            len(prompts) * max(max(len(p.tokens) for p in prompts), branch_tokens(beams, len(catalogue.sizes)))
        )
        return decode(model, catalogue, prompts, beams, **rest)

    recommender = pauserec.load(tiny_run, "pauserec")
    histories = [[f"i{n % 40}"] for n in range(200)]
    few = recommender.recommend(histories, k=5)
    monkeypatch.setattr("pauserec.llm.recommender.decode", counted)
    wide = recommender.recommend(histories, k=39)
    assert len(sizes) > 1
    assert max(sizes) <= 8192 * 1.1, "decoding.batch_tokens; a batch is measured by its longest prompt here"
    for one, other in zip(few, wide, strict=True):
        assert [scored.item_id for scored in other.items[:3]] == [scored.item_id for scored in one.items[:3]]


def test_the_row_that_is_best_on_validation_is_served_unless_another_is_named(tiny_run: Path) -> None:
    scores = {
        name: row["validation"]["ndcg@10"]
        for name, row in orjson.loads((tiny_run / "result.json").read_bytes())["models"].items()
    }
    best = max(scores, key=lambda name: scores[name])
    assert pauserec.load(tiny_run).row == best
    assert pauserec.load(tiny_run, "sft").row == "sft"
