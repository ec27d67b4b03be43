import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pauserec.errors import DataError, RecipeError, RunError
from pauserec.evaluation.evaluate import _chunks, evaluate
from pauserec.evaluation.metrics import METRICS, summarise
from pauserec.evaluation.ranks import ranks_of, read_ranks, write_ranks
from pauserec.records import Dataset, IntArray, Item, Ranking
from pauserec.results.table import TableRow, format_table

ITEMS = 15


def dataset(*sequences: list[int]) -> Dataset:
    return Dataset(
        items=tuple(Item(f"i{n:02d}") for n in range(ITEMS)),
        users=tuple(f"u{n}" for n in range(len(sequences))),
        sequences=tuple(np.array(sequence) for sequence in sequences),
        fingerprint="test",
    )


class Fixed:
    """Gives everyone the same list, whatever was asked, and remembers what it was asked."""

    def __init__(self, *items: int) -> None:
        self.items = items
        self.asked: list[list[int]] = []
        self.batches: list[int] = []

    def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool) -> Ranking:
        self.asked += [history.tolist() for history in histories]
        self.batches.append(len(histories))
        row = np.array([*self.items, *[-1] * k][:k])
        return Ranking(np.tile(row, (len(histories), 1)), np.zeros((len(histories), k), dtype=np.float32))


DATA = dataset([0, 1, 2, 3], [4, 5, 6, 7, 8], [9, 1, 2, 0], [1, 2, 3])
LISTED = Fixed(3, 0, 2, 5, 6, 7, 9, 10, 11, 12)


def test_targets_and_inputs_are_leave_last_out() -> None:
    model = Fixed(3, 8, 0)
    result = evaluate(model, DATA, "test", seen="keep", top_k=10, bootstrap=5)
    assert model.asked == [[0, 1, 2], [4, 5, 6, 7], [9, 1, 2], [1, 2]]
    assert result.targets.tolist() == [3, 8, 0, 3]
    assert result.ranks.tolist() == [1, 2, 3, 1]
    assert result.metrics["hit@5"] == 1
    assert result.metrics["users"] == 4
    validation = evaluate(model, DATA, "validation", seen="keep", top_k=10, bootstrap=5)
    assert model.asked[4:] == [[0, 1], [4, 5, 6], [9, 1], [1]]
    assert validation.ranks.tolist() == [0, 0, 0, 0]


def test_users_without_a_target_in_the_split_are_left_out() -> None:
    result = evaluate(LISTED, DATA, "train", seen="keep", top_k=10, bootstrap=5)
    assert result.user_ids == ("u0", "u1", "u2")


def test_chosen_users_only() -> None:
    result = evaluate(LISTED, DATA, "test", seen="keep", top_k=10, bootstrap=5, users=[2, 0])
    assert result.user_ids == ("u2", "u0")
    assert result.targets.tolist() == [0, 3]


def test_users_go_in_chunks_and_the_result_is_the_same() -> None:
    model = Fixed(*LISTED.items)
    small = evaluate(model, DATA, "test", seen="keep", top_k=10, bootstrap=50, chunk=3)
    assert model.batches == [3, 1]
    whole = evaluate(LISTED, DATA, "test", seen="keep", top_k=10, bootstrap=50)
    assert small.metrics == whole.metrics
    assert (small.top == whole.top).all()


def test_faults_of_a_recommender_are_counted() -> None:
    result = evaluate(Fixed(3, 3, 99, -5, 1, 3), DATA, "test", seen="drop", top_k=10, bootstrap=5, users=[0, 1])
    assert result.invalid == 2 * 2
    assert result.duplicates == 2 * 2
    assert result.fewer_than_k == 2
    assert result.repeated_history == 1  # item 1, of the first user's history


def test_a_target_in_the_history_cannot_be_hit_when_seen_items_are_dropped() -> None:
    repeated = dataset([0, 1, 2, 0], [0, 1, 2, 3])
    assert evaluate(LISTED, repeated, "test", seen="drop", top_k=10, bootstrap=5).unreachable == 1
    assert evaluate(LISTED, repeated, "test", seen="keep", top_k=10, bootstrap=5).unreachable == 0


def test_a_top_k_below_the_largest_cutoff_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.top_k.*at least 10"):
        evaluate(LISTED, DATA, "test", seen="keep", top_k=5, bootstrap=5)


def test_no_users_is_refused() -> None:
    with pytest.raises(DataError, match="no user has a test target"):
        evaluate(LISTED, dataset(), "test", seen="keep", top_k=10, bootstrap=5)


def test_a_ranking_of_the_wrong_shape_is_refused() -> None:
    class Short:
        def top(self, histories: Sequence[IntArray], k: int, *, drop_seen: bool) -> Ranking:
            return Ranking(np.zeros((len(histories), 2), dtype=np.int64), np.zeros((len(histories), 2), np.float32))

    with pytest.raises(ValueError, match="shape"):
        evaluate(Short(), DATA, "test", seen="keep", top_k=10, bootstrap=5)


def test_ranks_come_back_from_the_file_with_the_same_metrics(tmp_path: Path) -> None:
    test = evaluate(LISTED, DATA, "test", seen="keep", top_k=10, bootstrap=50)
    validation = evaluate(Fixed(2, 99), DATA, "validation", seen="keep", top_k=10, bootstrap=50)
    write_ranks(tmp_path / "ranks.parquet", {"a": {"test": test, "validation": validation}}, DATA)
    frame = read_ranks(tmp_path / "ranks.parquet")
    assert frame.columns == ["model", "split", "user_id", "target", "rank", "top_items"]
    assert frame.row(0) == ("a", "test", "u0", "i03", 1, [f"i{n:02d}" for n in LISTED.items])
    assert frame.row(1)[4] is None
    assert frame.row(4)[5] == ["i02", None]  # 99 is no item
    assert summarise(ranks_of(frame, "a", "test"), 50) == test.metrics
    with pytest.raises(RunError, match="known models are a"):
        ranks_of(frame, "b", "test")


def test_the_ranks_file_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    result = evaluate(LISTED, DATA, "test", seen="keep", top_k=10, bootstrap=5)
    for name in ("a", "b"):
        write_ranks(tmp_path / name, {"m": {"test": result}}, DATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_damaged_or_foreign_ranks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranks.parquet"
    with pytest.raises(RunError, match="missing"):
        read_ranks(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(RunError, match="not readable"):
        read_ranks(path)
    pl.DataFrame({"x": [1]}).write_parquet(path)
    with pytest.raises(RunError, match="columns"):
        read_ranks(path)


def test_the_table_shows_names_as_they_are() -> None:
    low, high = dict.fromkeys(METRICS, 0.1), dict.fromkeys(METRICS, 0.25)
    table = format_table([TableRow("[red]x[/red]", low, None, 0.061), TableRow("sft", high, 1234.5, 48.21)])
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    text = out.getvalue()
    for part in (
        "[red]x[/red]",
        "Hit@5",
        "Hit@10",
        "NDCG@5",
        "NDCG@10",
        "train s",
        "ms/user",
        "0.2500",
        "1,234",
        "48.2",
    ):
        assert part in text


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 9))
def test_every_process_ranks_as_many_times_and_all_users_together(users: int, chunk: int, world: int) -> None:
    shares = _chunks(users, chunk, world)
    assert len(shares) == world
    assert len({len(share) for share in shares}) == 1, "a process that passes once less would leave the others waiting"
    assert {user for share in shares for begin, stop in share for user in range(begin, stop)} == set(range(users))
    assert all(0 < stop - begin <= chunk for share in shares for begin, stop in share)
