import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pauserec.baselines.counts import Cooccurrence, cooccurrences
from pauserec.baselines.popularity import Popularity
from pauserec.config import CooccurrenceSettings
from pauserec.errors import RunError
from pauserec.records import Dataset, Item, Offer


def dataset(*sequences: list[int], items: int = 8) -> Dataset:
    return Dataset(
        items=tuple(Item(f"i{n}") for n in range(items)),
        users=tuple(f"u{n}" for n in range(len(sequences))),
        sequences=tuple(np.array(sequence) for sequence in sequences),
        fingerprint="test",
    )


def test_popularity_counts_training_events_only() -> None:
    data = dataset([0, 1, 2, 3], [0, 1, 4, 3])
    assert Popularity.fit(data).counts.tolist() == [2, 2, 0, 0, 0, 0, 0, 0]
    assert Popularity.fit(data, final_fit="train+validation").counts.tolist() == [2, 2, 1, 0, 1, 0, 0, 0]


def test_cooccurrence_counts_training_events_only() -> None:
    data = dataset([0, 1, 2, 3])
    assert Cooccurrence.fit(data).similarity.toarray()[:, 2:].sum() == 0
    assert Cooccurrence.fit(data, final_fit="train+validation").similarity.toarray()[1, 2] > 0
    assert Cooccurrence.fit(data, final_fit="train+validation").similarity.toarray()[:, 3].sum() == 0


def test_popular_items_come_first_and_ties_go_by_number() -> None:
    model = Popularity.fit(dataset([5, 2, 6, 7], [5, 1, 6, 7], [1, 2, 6, 7], [5, 6, 7]))
    ranking = model.top([np.array([3])], 4, drop_seen=False)
    assert ranking.items.tolist() == [[5, 1, 2, 0]]
    assert ranking.scores.tolist() == [[3, 2, 2, 0]]


@given(st.data())
def test_ranking_what_can_be_in_a_list_is_ranking_everything(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 12))
    numbers = st.lists(st.integers(0, items - 1), max_size=6).map(lambda row: np.array(row, dtype=np.int64))
    events = data.draw(st.lists(numbers, min_size=1, max_size=6))
    histories = data.draw(st.lists(numbers, max_size=40))
    deny = data.draw(st.none() | st.lists(numbers, min_size=len(histories), max_size=len(histories)))
    k, drop = data.draw(st.integers(1, 15)), data.draw(st.booleans())
    known = Dataset(tuple(Item(str(n)) for n in range(items)), tuple(map(str, range(len(events)))), tuple(events), "")
    allow = data.draw(st.none() | st.lists(st.none() | numbers, min_size=len(histories), max_size=len(histories)))
    for model in (Popularity.fit(known), Cooccurrence.fit(known)):
        found = model.top(histories, k, drop_seen=drop, offer=Offer(allow, deny))
        for row, history in enumerate(histories):
            every = model.top([history], items, drop_seen=False)
            gone = [*(history if drop else ()), *(deny[row] if deny else ())]
            legal = np.arange(items) if allow is None or (kept := allow[row]) is None else kept
            stays = np.isin(every.items[0], legal) & ~np.isin(every.items[0], gone)
            left = every.items[0][stays][:k]
            assert found.items[row].tolist() == [*left, *[-1] * (k - len(left))]
            np.testing.assert_allclose(found.scores[row, : len(left)], every.scores[0][stays][:k], rtol=1e-6)


def test_cooccurrence_weighs_distance_and_direction() -> None:
    settings = CooccurrenceSettings(window=2, distance_decay=0.5, backward=0.25)
    counted = cooccurrences([np.array([0, 1, 2, 3]), np.array([0, 1]), np.array([4, 4])], 5, settings).toarray()
    expected = np.zeros((5, 5))
    expected[0, 1], expected[1, 2], expected[2, 3], expected[0, 2], expected[1, 3] = 2, 1, 1, 0.5, 0.5
    assert counted == pytest.approx(expected + 0.25 * expected.T)


def test_score_equals_a_hand_computation() -> None:
    settings = CooccurrenceSettings(window=1, distance_decay=1, backward=1, decay=0.5, last=2)
    model = Cooccurrence.fit(dataset([0, 1, 2, 9, 9], [0, 1, 9, 9], [3, 2, 9, 9], items=10), settings)
    # C[0,1] = 2, C[1,2] = 1, C[3,2] = 1; popularity 2, 2, 2, 1. History 3, 1, 0 is cut to its last two items.
    ranking = model.top([np.array([3, 1, 0])], 3, drop_seen=False)
    assert ranking.items.tolist() == [[1, 0, 2]]
    assert ranking.scores[0] == pytest.approx([2 / 2**0.5, 0.5 * 2 / 2**0.5, 0.5 * 1 / 2**0.5])


def test_items_without_a_score_follow_by_popularity() -> None:
    model = Cooccurrence.fit(dataset([0, 1, 7, 7], [4, 5, 7, 7], [5, 6, 7, 7]))
    ranking = model.top([np.array([0])], 8, drop_seen=True)
    assert ranking.items.tolist() == [[1, 5, 4, 6, 2, 3, 7, -1]]
    assert ranking.scores[0, 0] > 0 > ranking.scores[0, 1]


def test_an_empty_history_gets_popularity() -> None:
    data = dataset([0, 1, 7, 7], [4, 5, 7, 7], [5, 6, 7, 7])
    empty = [np.array([], dtype=np.int64)]
    expected = Popularity.fit(data).top(empty, 5, drop_seen=True).items
    assert Cooccurrence.fit(data).top(empty, 5, drop_seen=True).items.tolist() == expected.tolist()


def test_settings_out_of_bounds_or_unknown_are_refused() -> None:
    for wrong in ({"window": 0}, {"decay": 0}, {"decay": 1.1}, {"last": 0}, {"backward": 2}, {"windows": 5}):
        with pytest.raises(ValidationError):
            CooccurrenceSettings(**wrong)


@pytest.mark.parametrize("model", [Popularity, Cooccurrence])
def test_missing_damaged_or_foreign_files_are_refused(model: type, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing"):
        model.load(tmp_path)
    model.fit(dataset([0, 1, 2, 3])).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(RunError, match="damaged"):
        model.load(tmp_path)
    other = Cooccurrence if model is Popularity else Popularity
    other.fit(dataset([0, 1, 2, 3])).save(tmp_path)
    with pytest.raises(RunError, match="holds"):
        model.load(tmp_path)


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    Cooccurrence.fit(dataset([0, 1, 2, 3])).save(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"window": "five"}))
    with pytest.raises(RunError, match="damaged"):
        Cooccurrence.load(tmp_path)
