"""The best row is that of validation, never that of test."""

from typing import Any

from pauserec.results.best import best_first, best_row

MODELS: dict[str, Any] = {
    "popularity": {"validation": {"ndcg@10": 0.06}, "test": {"ndcg@10": 0.05}},
    "co-occurrence": {"validation": {"ndcg@10": 0.09}, "test": {"ndcg@10": 0.08}},
    "sft": {"validation": {"ndcg@10": 0.08}, "test": {"ndcg@10": 0.10}},
    "refit": {"test": {"ndcg@10": 0.12}},
}


def test_the_best_row_is_chosen_on_validation() -> None:
    assert best_row(MODELS) == "co-occurrence"
    assert best_row(MODELS, among={"sft", "refit"}) == "sft"
    assert best_row({"refit": MODELS["refit"]}) is None
    assert best_row({}) is None


def test_of_equal_rows_the_first_is_the_best() -> None:
    assert best_row({"a": MODELS["sft"], "b": MODELS["sft"]}) == "a"


def test_tables_begin_with_the_best_row_and_go_on_by_their_own_split() -> None:
    assert best_first(MODELS, "test") == ["co-occurrence", "refit", "sft", "popularity"]
    assert best_first(MODELS, "validation") == ["co-occurrence", "sft", "popularity"]
