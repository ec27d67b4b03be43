"""A tiny real model and a small data set, so that whole recipes run in seconds."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_sets import WANTING
from pauserec.config import Recipe

settings.register_profile("any-machine", deadline=None)  # a busy one may take a while for a first example
settings.load_profile("any-machine")

TEXT = "red blue green small large old new film book song about the of night day river stone bird king queen"
WORDS = TEXT.split()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line says how many tests could not have their data."""
    skipped = terminalreporter.stats.get("skipped", [])
    number = sum(WANTING in str(report.longrepr) for report in skipped)
    if number:
        terminalreporter.write_line(f"tests skipped for want of data: {number}")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small matrices: a second thread only waits."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m gpu` collects the tests of a GPU everywhere; where there is none, they say so."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: two random Llama layers and a byte-level BPE tokenizer that was really trained."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: one random BERT layer, mean pooling."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-embedder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(WORDS), *"0123456789"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder)
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate([("Transformer", ""), ("Pooling", "1_Pooling")])
    ]
    (folder / "modules.json").write_bytes(orjson.dumps(modules))
    (folder / "sentence_bert_config.json").write_bytes(orjson.dumps({"max_seq_length": 32, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_bytes(orjson.dumps(pooling))
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users who walk around a ring of 40 items: the next item is nearly certain."""
    folder, rng = tmp_path_factory.mktemp("small-data"), random.Random(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(60):
        start = rng.randrange(40)
        rows += [f"u{user},i{(start + step) % 40},{1_000_000_000 + step}" for step in range(12)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    items = [
        {"item_id": f"i{n}", "title": " ".join(rng.sample(WORDS, 3)), "categories": [WORDS[n % 5]]} for n in range(40)
    ]
    (folder / "items.jsonl").write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in items))
    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny_model: Path, tiny_embedder: Path, small_data: Path) -> Callable[..., dict[str, Any]]:
    """The nested dicts of a recipe with all four stages, a few steps each, in float32."""

    def settings(epochs: float = 1.0, **stage: Any) -> dict[str, Any]:
        training = {
            "epochs": epochs,
            "batch_tokens": 512,
            "tracking": [],
            "learning_rate": 1e-3,
            "save_every": 2,
        } | stage
        next_item = training | {"targets": "all", "targets_per_history": 2, "validation_users": 20}
        return {
            "name": "tiny",
            "data": {"source": str(small_data)},
            "embedder": {"name": str(tiny_embedder)},
            "quantizer": {"codebook_sizes": [8, 8, 8]},
            "model": {"name": str(tiny_model), "precision": "float32"},
            "prompt": {"system": "Name the next.", "history": "So far:", "history_length": 6},
            "stages": [
                {"name": "cpt", "kind": "cpt", "corpus": "histories", **training},
                {"name": "sft", "kind": "sft", "loss_on": "history", **next_item},
                {"name": "pause_pretrain", "kind": "pause_pretrain", "corpus": "items", **training},
                {"name": "implicit_sft", "kind": "implicit_sft", **next_item},
            ],
            "evaluation": {
                "models": [
                    {"name": "sft", "stage": "sft"},
                    {"name": "pauserec", "stage": "implicit_sft"},
                    {"name": "pauserec-k0", "stage": "implicit_sft", "pauses": 0},
                ],
                "bootstrap": 50,
            },
        }

    return settings


@pytest.fixture(scope="session")
def tiny_recipe(tiny_settings: Callable[..., dict[str, Any]]) -> Recipe:
    """The recipe of `tiny_settings`."""
    return Recipe.parse(tiny_settings())


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny recipe. Read it, do not change it."""
    from pauserec.pipeline import run

    folder = tmp_path_factory.mktemp("tiny-run") / "run"
    run(tiny_recipe, folder)
    return folder
