"""The baselines on real data against the reference numbers that come with it (test split, training events only)."""

from pathlib import Path

import pytest

from data_sets import shared
from pauserec.baselines.counts import Cooccurrence
from pauserec.baselines.popularity import Popularity
from pauserec.config import CooccurrenceSettings, DataConfig
from pauserec.data.dataset import load_dataset, prepare
from pauserec.evaluation.evaluate import evaluate
from pauserec.records import Dataset

REFERENCE = CooccurrenceSettings(window=5, distance_decay=0.8, backward=0.3, last=20, decay=0.8)


def prepared(name: str, out: Path) -> Dataset:
    prepare(DataConfig(source=str(shared(name))), out=out, log=lambda **values: None)
    return load_dataset(out)


def test_movielens_100k(tmp_path: Path) -> None:
    data = prepared("ml-100k", tmp_path)
    popularity = evaluate(Popularity.fit(data), data, "test", seen="drop", top_k=20, bootstrap=100)
    together = evaluate(Cooccurrence.fit(data, REFERENCE), data, "test", seen="drop", top_k=20, bootstrap=100)
    assert popularity.metrics["users"] == 943
    assert popularity.metrics["hit@10"] == pytest.approx(0.084, abs=0.005)
    assert popularity.metrics["ndcg@10"] == pytest.approx(0.043, abs=0.003)
    assert together.metrics["hit@10"] == pytest.approx(0.204, abs=0.01)
    assert together.metrics["ndcg@10"] == pytest.approx(0.108, abs=0.005)
    for result in (popularity, together):
        faults = (result.invalid, result.duplicates, result.repeated_history, result.fewer_than_k)
        assert faults == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dropped", "kept"),
    [
        ("amazon2014_beauty", (0.0771, 0.0478), (0.0688, 0.0407)),
        ("amazon2014_toys", (0.0920, 0.0596), (0.0857, 0.0514)),
    ],
)
def test_amazon(name: str, dropped: tuple[float, float], kept: tuple[float, float], tmp_path: Path) -> None:
    data = prepared(name, tmp_path)
    model = Cooccurrence.fit(data, REFERENCE)
    for seen, expected in (("drop", dropped), ("keep", kept)):
        metrics = evaluate(model, data, "test", seen=seen, top_k=20, bootstrap=10).metrics
        assert (metrics["hit@10"], metrics["ndcg@10"]) == pytest.approx(expected, abs=0.0015)
