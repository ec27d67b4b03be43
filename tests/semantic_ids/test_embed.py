"""Item vectors: the real embedder on real text, and co-occurrence that sees training events only."""

import numpy as np
import orjson
import polars as pl
import pytest
from safetensors.numpy import save_file
from scipy import sparse

from data_sets import fetched
from pauserec.assets.named import embedder_path
from pauserec.config import DataConfig, EmbedderConfig
from pauserec.data.dataset import prepare
from pauserec.errors import AssetError, RunError
from pauserec.records import Dataset, Item
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.cooccurrence import cooccurrence_vectors, pair_counts, positive_pmi, truncated_svd
from pauserec.semantic_ids.embed import embed_items, item_text, join, load_vectors, new_item_vectors, text_vectors


def sequences(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int64) for row in rows]


def test_pairs_are_counted_within_the_window_and_within_a_user():
    counts = pair_counts(sequences([0, 1, 2], [2, 0]), 4, window=1).toarray()
    assert counts.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert pair_counts(sequences([0, 1, 2]), 3, window=2).toarray()[0, 2] == 1
    assert pair_counts(sequences([0, 0]), 1, window=5).nnz == 0


def test_pairs_match_a_count_by_hand():
    numbers = np.random.default_rng(0)
    rows = [numbers.integers(0, 6, numbers.integers(0, 9)) for _ in range(20)]
    expected = np.zeros((6, 6))
    for row in rows:
        for i, a in enumerate(row):
            for b in row[i + 1 : i + 4]:
                if a != b:
                    expected[a, b] += 1
                    expected[b, a] += 1
    assert np.array_equal(pair_counts(rows, 6, window=3).toarray(), expected)


def test_ppmi_by_hand():
    counts = pair_counts(sequences([0, 1], [0, 1], [2, 3]), 4, window=1)
    dense = positive_pmi(counts).toarray()
    assert dense[0, 1] == pytest.approx(np.log(2 * 6 / (2 * 2)))
    assert dense[2, 3] == pytest.approx(np.log(1 * 6 / (1 * 1)))
    assert dense[0, 2] == 0


def test_items_chosen_together_are_close_and_unseen_items_are_zero():
    rows = sequences(*([[0, 1, 2]] * 5), *([[3, 4, 5]] * 5))
    vectors = cooccurrence_vectors(rows, 7, dims=2, window=2, seed=0)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.99
    assert abs(alike[0, 3]) < 0.01
    assert np.allclose(np.linalg.norm(vectors[:6], axis=1), 1, atol=1e-5)
    assert not vectors[6].any()
    assert np.array_equal(vectors, cooccurrence_vectors(rows, 7, dims=2, window=2, seed=0))


def sparse_random(rows: int, columns: int) -> sparse.csr_matrix:
    return sparse.random(rows, columns, density=0.2, format="csr", random_state=0)


def test_the_truncated_svd_loses_hardly_more_than_the_best_of_its_rank():
    matrix = sparse_random(300, 200)
    dense = matrix.toarray()
    singular_values = np.linalg.svd(dense, compute_uv=False)
    for rank in (1, 10, 50):
        u, s = truncated_svd(matrix, rank, seed=0)
        assert np.allclose(u.T @ u, np.eye(rank), atol=1e-10)
        assert np.linalg.norm(dense - u @ (u.T @ dense)) < 1.005 * np.sqrt(np.square(singular_values[rank:]).sum())
        assert np.allclose(s, singular_values[:rank], rtol=0.02)


def test_the_truncated_svd_of_full_rank_is_exact_and_its_signs_are_fixed():
    matrix = sparse_random(40, 40)
    u, s = truncated_svd(matrix, 40, seed=0)
    assert np.allclose(s, np.linalg.svd(matrix.toarray(), compute_uv=False))
    other, _ = truncated_svd(matrix, 40, seed=1)
    assert np.allclose(u[:, :30], other[:, :30])
    assert (u[np.abs(u).argmax(axis=0), np.arange(40)] > 0).all()


def test_more_dimensions_than_items_and_no_events_at_all():
    assert cooccurrence_vectors(sequences([0, 1]), 2, dims=8, window=1, seed=0).shape == (2, 8)
    assert not cooccurrence_vectors(sequences([0], []), 3, dims=4, window=1, seed=0).any()


def test_held_out_events_do_not_reach_the_vectors():
    def vectors(last: int) -> np.ndarray:
        items = tuple(Item(str(n)) for n in range(5))
        data = Dataset(items, ("u",), tuple(sequences([0, 1, 2, 3, last])), "f")
        return cooccurrence_vectors(data.training_sequences(), 5, dims=2, window=5, seed=0)

    assert np.array_equal(vectors(4), vectors(0))
    assert not vectors(4)[3:].any()


def test_the_weight_is_the_share_of_the_squared_length():
    joined = join(np.float32([[1, 0]]), np.float32([[0, 1]]), 0.3)
    assert np.square(joined[0, 2:]).sum() == pytest.approx(0.3)
    assert np.linalg.norm(joined) == pytest.approx(1)


def test_item_text():
    film = Item("1", "Alien", ("Horror", "Sci-Fi"))
    assert item_text(EmbedderConfig(), film) == "Alien. Horror > Sci-Fi"
    assert item_text(EmbedderConfig(text="title"), film) == "Alien"
    assert item_text(EmbedderConfig(), Item("2")) == ""


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    save_file({"vectors": np.float32([[1, np.nan]])}, tmp_path / "vectors.safetensors")
    with pytest.raises(RunError, match="--redo"):
        load_vectors(tmp_path)
    with pytest.raises(RunError, match="missing"):
        load_vectors(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def embedder() -> EmbedderConfig:
    name = fetched("all-minilm-l6-v2", lambda: embedder_path("all-minilm-l6-v2"))
    return EmbedderConfig(name=name, cooccurrence_dims=4)


def test_the_real_embedder_knows_what_is_alike(embedder):
    films = [
        Item("1", "Alien", ("Horror", "Sci-Fi")),
        Item("2", "Aliens", ("Sci-Fi",)),
        Item("3", "Pinocchio", ("Children",)),
    ]
    vectors = text_vectors(embedder, [*films, films[0], Item("4")])
    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[0, 1] > alike[0, 2] + 0.1
    assert np.array_equal(vectors[0], vectors[3])


def test_a_new_item_has_no_cooccurrence(embedder):
    vectors = new_item_vectors(embedder, [Item("1", "Alien")])
    assert vectors.shape == (1, 388)
    assert not vectors[0, 384:].any()


def test_the_step_writes_joined_vectors_and_their_widths(embedder, tmp_path):
    events = [(user, item, item) for user in range(5) for item in range(6)]
    pl.DataFrame(events, schema=["user_id", "item_id", "order"], orient="row").write_csv(tmp_path / "interactions.csv")
    pl.DataFrame({"item_id": range(6), "title": ["Alien"] * 5 + [None]}).write_csv(tmp_path / "items.csv")
    raw = DataConfig(source=str(tmp_path))
    for name in ("dataset", "vectors"):
        (tmp_path / name).mkdir()
    prepare(raw, out=tmp_path / "dataset", log=lambda **_: None)
    step = FinishedStep("dataset", tmp_path / "dataset", "f", {})
    logged: dict = {}
    summary = embed_items(embedder, step, out=tmp_path / "vectors", log=logged.update)
    vectors = load_vectors(tmp_path / "vectors")
    assert vectors.shape == (6, 388)
    widths = orjson.loads((tmp_path / "vectors" / "vectors.json").read_bytes())
    assert (widths["text_width"], widths["cooccurrence_width"], widths["items_without_text"]) == (384, 4, 1)
    assert logged == summary
    assert (np.square(vectors[:, 384:]).sum(axis=1) > 0).sum() == 4  # the two held-out items have no training event


def test_items_that_nothing_tells_apart_are_said_to_be(embedder, tmp_path):
    events = [(user, item, item) for user in range(5) for item in range(6)]
    pl.DataFrame(events, schema=["user_id", "item_id", "order"], orient="row").write_csv(tmp_path / "interactions.csv")
    prepare(DataConfig(source=str(tmp_path)), out=tmp_path / "dataset", log=lambda **_: None)
    step, bare = FinishedStep("dataset", tmp_path / "dataset", "f", {}), EmbedderConfig(name=embedder.name)
    with pytest.warns(UserWarning, match="6 of 6 items have no text.*set embedder.cooccurrence_dims"):
        embed_items(bare, step, out=tmp_path, log=lambda **_: None)


def test_a_model_that_embeds_no_text_is_refused(tiny_model):
    config = EmbedderConfig(name=str(tiny_model))
    with pytest.raises(AssetError, match=r"embedder\.name .* embeds no text .*: name a sentence embedder"):
        text_vectors(config, [Item("1", "short"), Item("2", "a longer title")])


def test_a_folder_that_is_no_embedder_is_refused(embedder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AssetError, match=r"embedder\.name"):
        text_vectors(EmbedderConfig(name=str(tmp_path)), [Item("1", "Alien")])
