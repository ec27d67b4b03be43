"""Sentence encoders from their folders: texts one at a time by hand, and sentence-transformers itself where it is installed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, T5Config, T5EncoderModel, T5ForConditionalGeneration

from pauserec.config import EmbedderConfig
from pauserec.errors import AssetError
from pauserec.records import Item
from pauserec.semantic_ids.embed import text_vectors
from pauserec.semantic_ids.sentence_encoder import SentenceEncoder

TEXTS = [
    "red stone",
    "the king of the small blue island " * 9,
    "night",
    "",
    "unseen zebra 42",
    "old film about a queen",
]
POOL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda states: states.mean(dim=0),
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
    "max": lambda states: states.amax(dim=0),
}


@pytest.fixture
def folder(tiny_embedder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny embedder, to be changed."""
    return Path(shutil.copytree(tiny_embedder, tmp_path / "embedder"))


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps(content))


def change(path: Path, **values: Any) -> None:
    write(path, orjson.loads(path.read_bytes()) | values)


def add_module(folder: Path, kind: str, **settings: Any) -> Path:
    modules = orjson.loads((folder / "modules.json").read_bytes())
    own = folder / f"{len(modules)}_{kind}"
    modules.append(
        {"idx": len(modules), "name": own.name, "path": own.name, "type": f"sentence_transformers.models.{kind}"}
    )
    write(folder / "modules.json", modules)
    write(own / "config.json", settings)
    return own


def add_dense(folder: Path, activation: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    weights = {"linear.weight": torch.randn(5, 32), "linear.bias": torch.randn(5)}
    own = add_module(folder, "Dense", in_features=32, out_features=5, bias=True, activation_function=activation)
    save_file(weights, own / "model.safetensors")
    return weights


def pooled_by_hand(folder: Path, mode: str, texts: list[str], length: int = 32) -> torch.Tensor:
    """Each text alone, so without padding."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        encoded = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            rows.append(POOL[mode](model(**encoded).last_hidden_state[0]))
    return torch.stack(rows)


def agree(vectors: np.ndarray, expected: torch.Tensor) -> bool:
    return np.allclose(vectors, functional.normalize(expected, dim=1).numpy(), atol=1e-5)


@pytest.mark.parametrize("mode", list(POOL))
def test_every_pooling_is_that_of_the_texts_alone(mode: str, folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": mode})
    vectors = SentenceEncoder(folder).encode(TEXTS)
    assert vectors.dtype == np.float32
    assert agree(vectors, pooled_by_hand(folder, mode, TEXTS))


def is_cut_early(folder: Path) -> None:
    write(folder / "sentence_bert_config.json", {"max_seq_length": 7})


def says_no_length(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()


def test_texts_are_cut_at_the_folders_length_or_else_at_the_models_positions(folder: Path) -> None:
    is_cut_early(folder)
    assert agree(SentenceEncoder(folder).encode(TEXTS), pooled_by_hand(folder, "mean", TEXTS, length=7))
    says_no_length(folder)
    assert SentenceEncoder(folder).tokenizer.model_max_length == 512


@pytest.mark.parametrize("name", ["torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"])
def test_dense_layers_and_normalization_follow_in_their_order(name: str, folder: Path) -> None:
    add_module(folder, "Normalize")
    weights = add_dense(folder, name)
    pooled = functional.normalize(pooled_by_hand(folder, "mean", TEXTS), dim=1)
    dense = functional.linear(pooled, weights["linear.weight"], weights["linear.bias"])
    expected = torch.tanh(dense) if name.endswith("Tanh") else dense
    assert agree(SentenceEncoder(folder).encode(TEXTS), expected)


def has_a_default_prompt(folder: Path) -> None:
    prompts = {"item": "old book ", "query": "king "}
    write(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "item"})


def test_the_default_prompt_stands_before_each_text_and_no_other_does(folder: Path) -> None:
    has_a_default_prompt(folder)
    prompted = pooled_by_hand(folder, "mean", [f"old book {text}" for text in TEXTS])
    assert agree(SentenceEncoder(folder).encode(TEXTS), prompted)
    change(folder / "config_sentence_transformers.json", default_prompt_name=None)
    assert agree(SentenceEncoder(folder).encode(TEXTS), pooled_by_hand(folder, "mean", TEXTS))


def is_plain(folder: Path) -> None:
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()


def test_a_plain_encoder_is_pooled_by_the_mean(folder: Path) -> None:
    is_plain(folder)
    assert agree(SentenceEncoder(folder).encode(TEXTS), pooled_by_hand(folder, "mean", TEXTS, length=512))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_plain_causal_model_is_pooled_by_its_last_token(side: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "causal"))
    change(folder / "tokenizer_config.json", pad_token="<|endoftext|>", padding_side=side)
    texts = [text for text in TEXTS if text]
    assert agree(SentenceEncoder(folder).encode(texts), pooled_by_hand(folder, "lasttoken", texts, length=512))


def has_a_decoder_too(folder: Path) -> None:
    for path in ("config.json", "model.safetensors"):
        (folder / path).unlink()
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=64, **shape)).save_pretrained(folder)


def test_of_an_encoder_decoder_the_encoder_embeds(folder: Path) -> None:
    has_a_decoder_too(folder)
    encoder = SentenceEncoder(folder)
    assert isinstance(encoder.model, T5EncoderModel)
    assert encoder.encode(TEXTS).shape == (len(TEXTS), 32)


def pools_by_the_maximum(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "max"})


def pads_on_the_left(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "cls"})
    change(folder / "tokenizer_config.json", padding_side="left")


def ends_in_a_dense_layer(folder: Path) -> None:
    add_module(folder, "Normalize")
    add_dense(folder, "torch.nn.modules.activation.Tanh")


def reads_small_letters(folder: Path) -> None:
    change(folder / "tokenizer_config.json", do_lower_case=False)
    change(folder / "sentence_bert_config.json", do_lower_case=True)


@pytest.mark.parametrize(
    "variant",
    [
        *(is_cut_early, says_no_length, has_a_default_prompt, is_plain, has_a_decoder_too),
        *(pools_by_the_maximum, pads_on_the_left, ends_in_a_dense_layer, reads_small_letters),
    ],
)
def test_sentence_transformers_gives_the_same_vectors(variant: Callable[[Path], None], folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    variant(folder)
    theirs = library.SentenceTransformer(str(folder), local_files_only=True, device="cpu")
    texts = [*TEXTS, "Red STONE"]
    assert np.abs(SentenceEncoder(folder).encode(texts) - theirs.encode(texts, normalize_embeddings=True)).max() < 1e-5


def pools_by_weights(folder: Path) -> None:
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_weightedmean_tokens": True})


def pools_twice(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True)


def has_a_convolution(folder: Path) -> None:
    add_module(folder, "CNN")


def brings_code(folder: Path) -> None:
    write(folder / "modules.json", [{"path": "", "type": "custom_st.Transformer"}])


def asks_for_a_chat(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", modality_config={"message": {}}, module_output_name="token_embeddings")


def sets_what_the_model_is_called_with(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", model_args={"attn_implementation": "eager"})


def activates_by_a_gate(folder: Path) -> None:
    add_dense(folder, "torch.nn.modules.activation.GLU")


def lost_its_dense_weights(folder: Path) -> None:
    add_module(folder, "Dense", activation_function="torch.nn.modules.activation.Tanh")


def is_damaged(folder: Path) -> None:
    (folder / "modules.json").write_text("[{")


def lists_its_modules_by_name(folder: Path) -> None:
    write(folder / "modules.json", ["Transformer", "Pooling"])


def has_settings_of_another_form(folder: Path) -> None:
    write(folder / "sentence_bert_config.json", [])


def lost_its_default_prompt(folder: Path) -> None:
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "king "}, "default_prompt_name": "item"})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (pools_by_weights, "1_Pooling pools by weightedmean, not by one of mean, cls, lasttoken, max"),
        (pools_twice, "1_Pooling pools by cls and mean"),
        (has_a_convolution, "modules.json has sentence_transformers.models.CNN"),
        (brings_code, "modules.json has custom_st.Transformer"),
        (asks_for_a_chat, "chat template"),
        (sets_what_the_model_is_called_with, "sets model_args, which is not supported"),
        (activates_by_a_gate, "2_Dense is a dense layer with"),
        (lost_its_dense_weights, "model.safetensors"),
        (is_damaged, "modules.json is damaged"),
        (lists_its_modules_by_name, "modules.json is damaged"),
        (has_settings_of_another_form, "sentence_bert_config.json is damaged: it holds no dict"),
        (lost_its_default_prompt, "no prompt 'item'"),
    ],
)
def test_what_cannot_be_followed_is_named_in_one_line(harm: Callable[[Path], None], reason: str, folder: Path) -> None:
    harm(folder)
    with pytest.raises(AssetError) as error:
        text_vectors(EmbedderConfig(name=str(folder)), [Item("1", "stone")])
    assert str(error.value).startswith(f"embedder.name {str(folder)!r} cannot be loaded (")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
