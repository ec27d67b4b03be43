"""What every recommender keeps, run on a checkerboard whose right answer is known. A new one adds a line to FITTED.

The checkerboard: even users chose even items, odd users odd ones. Item 0 and 1 were chosen by all of their colour.
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pauserec.baselines.counts import Cooccurrence
from pauserec.baselines.generative import fit_tiger
from pauserec.baselines.popularity import Popularity
from pauserec.baselines.sequential import fit_sequential
from pauserec.config import BaselineJob, DecodingConfig, Format, ModelConfig, NextItemJob, PromptConfig, SftConfig
from pauserec.evaluation.evaluate import evaluate
from pauserec.llm.growth import grow_vocabulary
from pauserec.llm.model import LanguageModel
from pauserec.llm.recommender import LLMRecommender
from pauserec.records import Dataset, Item, Offer
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codes import SemanticIds
from pauserec.stages.next_item import train_next_item

ITEMS, USERS = 24, 60
Fit = Literal["train", "train+validation"]


def checkerboard(newest: int = 0) -> Dataset:
    """newest: so many of the last items are left out, but that every user's validation event is the last of their colour."""
    generator = np.random.default_rng(0)
    sequences = []
    for user in range(USERS):
        colour = user % 2
        others = generator.permutation(np.arange(colour + 2, ITEMS - newest, 2))
        chosen = np.concatenate([[colour], others[: 5 if newest else 8]])
        if newest:
            chosen[-2] = ITEMS - 2 + colour
        sequences.append(chosen)
    return Dataset(
        items=tuple(Item(f"i{n}") for n in range(ITEMS)),
        users=tuple(f"u{n:02d}" for n in range(USERS)),
        sequences=tuple(sequences),
        fingerprint="checkerboard",
    )


def sequential(board: Dataset, fit: Fit, **settings: Any) -> Any:
    job = BaselineJob.model_validate(
        {
            "settings": {
                "name": "s",
                "epochs": 60,
                "patience": None,
                "batch_tokens": 256,
                "dropout": 0.1,
                "width": 16,
                "final_fit": fit,
                **settings,
            },
            "seen": "drop",
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        return fit_sequential(job, board, out=Path(folder), log=lambda **_: None)[0]


def tiger(board: Dataset, fit: Fit, **more: Any) -> Any:
    settings = {
        "kind": "tiger",
        "name": "t",
        "epochs": 40,
        "patience": None,
        "batch_tokens": 1024,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "head_width": 16,
        "feed_forward": 64,
        "beams": ITEMS,
        "learning_rate": 3e-3,
        "final_fit": fit,
        **more,
    }
    job = BaselineJob.model_validate({"settings": settings, "seen": "drop"})
    with tempfile.TemporaryDirectory() as folder:
        return fit_tiger(job, board, CODES, out=Path(folder), log=lambda **_: None)[0]


class LanguageRecommender:
    """A language model trained on next items, with what a checkpoint folder needs to be one."""

    backbone: ClassVar[Path]
    room: ClassVar[Path]
    """Where checkpoints are made."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._model = LLMRecommender.load(
            checkpoint,
            SemanticIds.load(checkpoint),
            BOARD.items,
            model=ModelConfig(precision="float32"),
            prompt=PromptConfig(template="ids"),
            decoding=DecodingConfig(beams=ITEMS, normalise="codebook"),
            form=Format(),
        )
        self.top = self._model.top

    @classmethod
    def fit(cls, board: Dataset, fit: Fit) -> Self:
        folder = Path(tempfile.mkdtemp(dir=cls.room))
        for name in ("dataset", "ids", "base", "sft"):
            (folder / name).mkdir()
        pl.DataFrame(
            [{"item_id": item.item_id, "title": None, "categories": []} for item in board.items]
        ).write_parquet(folder / "dataset" / "items.parquet")
        pl.DataFrame({"user_id": board.users, "items": [row.tolist() for row in board.sequences]}).write_parquet(
            folder / "dataset" / "histories.parquet"
        )
        (folder / "dataset" / "report.json").write_text(f'{{"fingerprint": "{board.fingerprint}"}}')
        CODES.save(folder / "ids")
        quiet: dict[str, Any] = {"log": lambda **_: None}
        grow_vocabulary(ModelConfig(name=str(cls.backbone)), finished("ids", folder), out=folder / "base", **quiet)
        stage = SftConfig.model_validate(
            {
                "kind": "sft",
                "name": "sft",
                "targets": "all",
                "softmax": "codebook",
                "epochs": 30,
                "learning_rate": 3e-3,
                "batch_tokens": 256,
                "validate_every": 60,
                "final_fit": fit,
            }
        )
        job = NextItemJob(
            stage=stage,
            prompt=PromptConfig(template="ids"),
            decoding=DecodingConfig(beams=ITEMS, normalise="codebook"),
            precision="float32",
            seen="drop",
            keep="all",
        )
        model = LanguageModel.load(folder / "base", CODES)
        train_next_item(
            job, model, finished("base", folder), finished("dataset", folder), CODES, out=folder / "sft", **quiet
        )
        CODES.save(folder / "sft")
        return cls(folder / "sft")

    def save(self, folder: Path) -> None:
        shutil.copytree(self._checkpoint, folder, dirs_exist_ok=True)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(folder)


def finished(name: str, folder: Path) -> FinishedStep:
    return FinishedStep(name, folder / name, "f", {})


@pytest.fixture(scope="module", autouse=True)
def _backbone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    LanguageRecommender.backbone, LanguageRecommender.room = tiny_model, tmp_path_factory.mktemp("language")


CODES = SemanticIds(np.array([(item % 4, item // 4) for item in range(ITEMS)]), (4, ITEMS // 4))
BOARD = checkerboard()
FITTED: dict[str, tuple[Callable[[Dataset, Fit], Any], bool]] = {
    "popularity": (lambda board, fit: Popularity.fit(board, final_fit=fit), False),
    "co-occurrence": (lambda board, fit: Cooccurrence.fit(board, final_fit=fit), True),
    "sasrec": (partial(sequential, kind="sasrec"), True),
    "gru4rec": (partial(sequential, kind="gru4rec", learning_rate=1e-2), True),
    "bert4rec": (partial(sequential, kind="bert4rec", epochs=120), True),
    "hgn": (partial(sequential, kind="hgn", learning_rate=1e-2), True),
    "hstu": (partial(sequential, kind="hstu"), True),
    "rearec, prl": (partial(sequential, kind="rearec", temperature=0.5), True),
    "rearec, erl": (partial(sequential, kind="rearec", objective="erl", temperature=0.5), True),
    "tiger": (tiger, True),
    "language model": (LanguageRecommender.fit, True),
    "tiger, causal": (partial(tiger, encoder="causal"), True),
    "sasrec, sampled": (partial(sequential, kind="sasrec", loss="sampled", negatives=8), True),
    "sasrec, bce": (partial(sequential, kind="sasrec", loss="bce"), True),
}
"""name -> (how to make it, whether it knows the user)."""
HISTORIES = st.lists(
    st.lists(st.integers(0, ITEMS - 1), max_size=30).map(lambda items: np.array(items, dtype=np.int64)), max_size=6
)
every = pytest.mark.parametrize("name", FITTED)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: make(BOARD, "train") for name, (make, _) in FITTED.items()}


@every
@given(histories=HISTORIES, k=st.integers(1, ITEMS + 5), drop_seen=st.booleans())
@settings(deadline=None, max_examples=50)
def test_lists_are_legal(
    models: dict[str, Any], name: str, histories: list[np.ndarray], k: int, drop_seen: bool
) -> None:
    ranking = models[name].top(histories, k, drop_seen=drop_seen)
    assert ranking.items.shape == ranking.scores.shape == (len(histories), k)
    assert ranking.items.dtype == np.int64
    assert ranking.scores.dtype == np.float32
    for history, items, scores in zip(histories, ranking.items, ranking.scores, strict=True):
        seen = set(history.tolist()) if drop_seen else set()
        given_items = items[items != -1].tolist()
        assert len(given_items) == len(set(given_items)) == min(k, ITEMS - len(seen))
        assert not seen & set(given_items)
        assert items[: len(given_items)].tolist() == given_items, "padding stands last"
        assert np.isneginf(scores[len(given_items) :]).all()
        assert (np.diff(scores[: len(given_items)]) <= 0).all()


@every
def test_an_offer_limits_each_history(models: dict[str, Any], name: str) -> None:
    histories = [np.array([2, 4]), np.array([3]), np.array([6])]
    offer = Offer(
        allow=[np.array([1, 8, 9]), None, np.array([], dtype=np.int64)],
        deny=[np.array([9]), np.array([0, 1]), np.array([], dtype=np.int64)],
    )
    first, second, third = models[name].top(histories, ITEMS, drop_seen=True, offer=offer).items
    assert set(first[first >= 0].tolist()) == {1, 8}
    assert set(second[second >= 0].tolist()) == set(range(ITEMS)) - {0, 1, 3}
    assert (third == -1).all()


@every
def test_one_history_at_a_time_gives_the_same_lists(models: dict[str, Any], name: str) -> None:
    histories = [history.items for history in BOARD.split("test")] + [np.array([5]), np.empty(0, dtype=np.int64)]
    together = models[name].top(histories, 10, drop_seen=True)
    alone = [models[name].top([history], 10, drop_seen=True) for history in histories]
    assert together.items.tolist() == [row.items[0].tolist() for row in alone]
    assert together.scores == pytest.approx(np.concatenate([row.scores for row in alone]), rel=1e-5, abs=1e-6)


@every
def test_fitting_again_gives_the_same_lists(models: dict[str, Any], name: str) -> None:
    histories = [history.items for history in BOARD.split("test")]
    again = FITTED[name][0](BOARD, "train").top(histories, 10, drop_seen=False)
    assert again.items.tolist() == models[name].top(histories, 10, drop_seen=False).items.tolist()


@every
def test_saved_and_loaded_it_gives_the_same_lists(models: dict[str, Any], name: str, tmp_path: Path) -> None:
    histories = [history.items for history in BOARD.split("test")]
    models[name].save(tmp_path)
    loaded = type(models[name]).load(tmp_path)
    before, after = (model.top(histories, 10, drop_seen=True) for model in (models[name], loaded))
    assert before.items.tolist() == after.items.tolist()
    assert before.scores.tolist() == after.scores.tolist()


@every
def test_the_right_answer_of_the_checkerboard(models: dict[str, Any], name: str) -> None:
    model, personal = models[name], FITTED[name][1]
    if not personal:
        assert set(model.top([np.array([4])], 2, drop_seen=True).items[0].tolist()) == {0, 1}
        return
    for colour in (0, 1):
        history = np.array([colour + 2, colour + 4])
        assert (model.top([history], 8, drop_seen=True).items % 2 == colour).all()
    # of 12 items of the colour, 8 are seen: the target is among the 4 left
    assert evaluate(model, BOARD, "test", seen="drop", top_k=10, bootstrap=10).metrics["hit@5"] == 1


@every
def test_a_refit_learns_what_only_the_validation_events_show(name: str, tmp_path: Path) -> None:
    """The last item of each colour is chosen by everybody, and for the first time as the validation event."""
    board, (make, _) = checkerboard(newest=2), FITTED[name]
    strict, refit = make(board, "train"), make(board, "train+validation")
    refit.save(tmp_path)
    strict_found, found, loaded = (
        evaluate(model, board, "validation", seen="drop", top_k=10, bootstrap=10).metrics
        for model in (strict, refit, type(refit).load(tmp_path))
    )
    assert found == loaded
    assert found["hit@5"] > 0.9
    # not near 0: of the strict weights those are kept that happen to like the validation events best
    assert found["ndcg@5"] > strict_found["ndcg@5"] + 0.2
