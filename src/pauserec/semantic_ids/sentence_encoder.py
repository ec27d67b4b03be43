"""Sentence embeddings with transformers alone: the folders that sentence-transformers writes, or a plain encoder.

Method: Reimers & Gurevych 2019, Sentence-BERT (arXiv 1908.10084), Section 3: the states of a text's tokens are pooled into one
vector. What the folder's modules.json names is run in its order: the model, its pooling, then dense layers and normalization.
A folder without modules.json is pooled as sentence-transformers does: the last token of a causal language model, the mean of
any other. Shapes: B texts, T tokens, D width.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pauserec.records import FloatArray
from pauserec.runs.device import best_device

Layer = Callable[[Tensor], Tensor]


class SentenceEncoder:
    """A sentence embedder, loaded from its folder. Raises OSError or ValueError, in words for the user, if it cannot be."""

    def __init__(self, folder: Path) -> None:
        first, pooling, layers = _modules(folder)
        settings = _transformer_settings(first)
        self.tokenizer, self.model = _load(first, settings)
        self.prompt = _default_prompt(folder)
        self.pool = POOLING[_pooling_mode(pooling, self.prompt) if pooling else _usual_pooling(self.model.config)]
        self.layers = [_layer(kind, place) for kind, place in layers]
        self.device = best_device()
        self.model.to(self.device).eval()
        self.takes = set(inspect.signature(self.model.forward).parameters)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Embeddings of a batch of texts, float32 [B, D], rows of length 1. Raises ValueError if the model embeds no text."""
        prompted = [self.prompt + text for text in texts]
        batch = self.tokenizer(prompted, padding=True, truncation=True, return_tensors="pt").to(self.device)
        output = self.model(**{name: values for name, values in batch.items() if name in self.takes})
        states_BTD = getattr(output, "last_hidden_state", None)
        if states_BTD is None:
            raise ValueError("it gives no token states")
        vectors_BD: Tensor = self.pool(states_BTD, batch["attention_mask"].bool()).float()
        for layer in self.layers:
            vectors_BD = layer(vectors_BD)
        rows: FloatArray = _normalize(vectors_BD).cpu().numpy()
        return rows


def _mean(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    total_BD = (states_BTD * real_BT[:, :, None]).sum(dim=1, dtype=torch.float32)
    return total_BD / real_BT.sum(dim=1, keepdim=True).clamp(min=1)


def _first(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    place_B = real_BT.int().argmax(dim=1)  # of equal values the first; padding may stand on the left
    return states_BTD[torch.arange(len(place_B), device=place_B.device), place_B]


def _last(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    place_B = real_BT.shape[1] - 1 - real_BT.flip(1).int().argmax(dim=1)
    return states_BTD[torch.arange(len(place_B), device=place_B.device), place_B]


def _max(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    return states_BTD.masked_fill(~real_BT[:, :, None], float("-inf")).amax(dim=1)


POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "cls": _first, "lasttoken": _last, "max": _max}
"""States [B, T, D] and which tokens are real, bool [B, T], to vectors [B, D]; by sentence-transformers' names."""
_ACTIVATIONS: dict[str, Layer] = {
    "Tanh": torch.tanh,
    "Identity": lambda vectors: vectors,
    "GELU": F.gelu,
    "ReLU": F.relu,
}
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_LINEAR = ("linear.weight", "linear.bias")


def _modules(folder: Path) -> tuple[Path, Path | None, list[tuple[str, Path]]]:
    """Folders of the model and of its pooling, and kind and folder of each module after them."""
    listed = _read(folder / "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}])
    if not all(isinstance(module, dict) for module in listed):
        raise ValueError("modules.json is damaged: a module is no dict")
    found = [(str(module.get("type")), folder / str(module.get("path", ""))) for module in listed]
    kinds = [kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind for kind, _ in found]
    for kind, (full_name, _) in zip(kinds, found, strict=True):
        if kind not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise ValueError(
                f"modules.json has {full_name}, which is none of Transformer, Pooling, Dense and Normalize"
            )
    places = [place for _, place in found]
    if kinds == ["Transformer"]:
        return places[0], None, []
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & {*kinds[2:]}:
        raise ValueError(f"modules.json has {', '.join(kinds)}, not Transformer and Pooling first")
    return places[0], places[1], list(zip(kinds[2:], places[2:], strict=True))


def _transformer_settings(folder: Path) -> Mapping[str, Any]:
    """Of sentence_bert_config.json (named after other encoders, too) what is followed here. Raises ValueError for more."""
    files = sorted(folder.glob("sentence_*_config.json"))
    settings: dict[str, Any] = _read(files[0], {}) if files else {}
    name = files[0].name if files else ""
    if settings.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise ValueError(f"{name} has transformer_task {settings['transformer_task']!r}, not feature-extraction")
    if "message" in settings.get("modality_config", {}):
        raise ValueError(f"{name} asks for a chat template, which is not supported")
    if more := [key for key, value in settings.items() if value and key.endswith(("_args", "_kwargs"))]:
        raise ValueError(f"{name} sets {more[0]}, which is not supported")
    return settings


def _load(folder: Path, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and model; of an encoder-decoder the encoder alone."""
    from tokenizers.normalizers import Lowercase, Sequence
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

    here = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(folder, **here)
    config.use_cache = False
    kind = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
    model = kind.from_pretrained(folder, config=config, use_safetensors=True, **here)
    tokenizer = AutoTokenizer.from_pretrained(folder, **here)
    positions = getattr(config, "max_position_embeddings", None) or -1
    longest = tokenizer.model_max_length if positions == -1 else min(tokenizer.model_max_length, positions)
    tokenizer.model_max_length = settings.get("max_seq_length") or longest
    if settings.get("do_lower_case"):
        before = tokenizer.backend_tokenizer.normalizer
        tokenizer.backend_tokenizer.normalizer = Sequence([Lowercase(), before] if before else [Lowercase()])
    return tokenizer, model


def _default_prompt(folder: Path) -> str:
    """What stands before every text, where the folder names a prompt for that."""
    settings = _read(folder / "config_sentence_transformers.json", {})
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts") or {}
    if name and name not in prompts:
        raise ValueError(f"config_sentence_transformers.json has no prompt {name!r}, its default_prompt_name")
    return str(prompts[name]) if name else ""


def _pooling_mode(folder: Path, prompt: str) -> str:
    settings = _read(folder / "config.json", {})
    modes = settings.get("pooling_mode") or [mode for key, mode in _OLD_MODES.items() if settings.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLING:
        raise ValueError(f"{folder.name} pools by {' and '.join(modes)}, not by one of {', '.join(POOLING)}")
    if prompt and not settings.get("include_prompt", True):
        raise ValueError(f"{folder.name} leaves the prompt out of pooling, which is not supported")
    return str(modes[0])


def _usual_pooling(config: Any) -> str:
    name = (config.architectures or [""])[0]
    return "lasttoken" if name.endswith("ForCausalLM") and getattr(config, "is_causal", True) else "mean"


def _layer(kind: str, folder: Path) -> Layer:
    """A module after pooling, [B, D] to [B, D']."""
    if kind == "Normalize":
        return _normalize
    settings, weights = _read(folder / "config.json", {}), load_file(folder / "model.safetensors")
    name = str(settings.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS or settings.get("use_residual"):
        raise ValueError(f"{folder.name} is a dense layer with {name} or a residual, which is not supported")
    device = best_device()
    weight, bias = (None if part is None else part.float().to(device) for part in map(weights.get, _LINEAR))
    if weight is None:
        raise ValueError(f"{folder.name} has no weights named {_LINEAR[0]}")
    return lambda vectors: _ACTIVATIONS[name](F.linear(vectors, weight, bias))


def _normalize(vectors_BD: Tensor) -> Tensor:
    return F.normalize(vectors_BD, dim=1)


def _read(path: Path, otherwise: Any) -> Any:
    """Content of a JSON file, or `otherwise` where there is none. Raises ValueError if it is damaged."""
    try:
        content = orjson.loads(path.read_bytes()) if path.exists() else otherwise
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    if type(content) is not type(otherwise):
        raise ValueError(f"{path.name} is damaged: it holds no {type(otherwise).__name__}")
    return content
