"""GGUF to a plain Hugging Face folder: weights dequantised once, tokenizer and configuration rebuilt from the metadata.

Packed weights are slow to read and cannot be trained. Only what our one GGUF asset needs is covered: the llama
architecture with tied embeddings, and SmolLM's byte-level BPE. Layout: github.com/ggml-org/ggml, docs/gguf.md.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from pauserec.errors import AssetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONTROL = 3  # ggml's token type for control tokens
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def convert(gguf: Path, out: Path) -> None:
    """Write config, weights (float16 safetensors) and tokenizer of the model in `gguf` into the folder `out`.

    float16 keeps 11 significant bits; a Q4_1 weight is one of 16 levels of its block of 32, so the rounding
    (at most 2^-11 of the value) is far below the step that quantisation left. Raises AssetError for other kinds.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    kind = (meta.get("general.architecture"), meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre"))
    if kind != ("llama", "gpt2", "smollm"):
        raise AssetError(f"{gguf.name} is of the kind {kind}; only llama with SmolLM's tokenizer can be converted")
    _write_weights(reader.tensors, meta, out)
    _write_json(out / "config.json", _config(meta))
    special = {name: int(meta[f"tokenizer.ggml.{name}_token_id"]) for name in ("bos", "eos", "padding", "unknown")}
    ids = {"bos_token_id": special["bos"], "eos_token_id": special["eos"], "pad_token_id": special["padding"]}
    _write_json(out / "generation_config.json", ids)
    _write_tokenizer(meta, special, out)


def hf_name(name: str) -> str:
    """A GGUF tensor's name in transformers' Llama: blk.3.attn_q.weight is model.layers.3.self_attn.q_proj.weight."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _LAYER_NAMES:
            return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"
    raise AssetError(f"tensor {name!r} has no place in a llama model: the GGUF file is not what was pinned")


def unpermute(weight: "NDArray[np.float32]", heads: int) -> "NDArray[np.float32]":
    """Undo llama.cpp's interleaving of the rotary halves in a q or k projection, [heads * width, hidden]."""
    rows, hidden = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def _write_weights(tensors: Any, meta: dict[str, Any], out: Path) -> None:
    import numpy as np
    from gguf import dequantize
    from safetensors.numpy import save_file

    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    state = {}
    for tensor in tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        for part, count in heads.items():
            if f".{part}." in tensor.name:
                weight = unpermute(weight, count)
        state[hf_name(tensor.name)] = np.ascontiguousarray(weight.astype(np.float16))
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def _config(meta: dict[str, Any]) -> dict[str, Any]:
    heads, hidden = meta["llama.attention.head_count"], meta["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": meta["llama.vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # 1e-5, stored in float32
        "rope_parameters": {"rope_type": "default", "rope_theta": float(meta["llama.rope.freq_base"])},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",  # what to compute in; the file stores float16
    }


def _write_tokenizer(meta: dict[str, Any], special: dict[str, int], out: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: row for row, token in enumerate(tokens)}, merges=merges))
    # "smollm" stands for: digits one by one, then GPT-2's pattern, with no space put in front.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = meta["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(out / "tokenizer.json"))
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["llama.context_length"],
        "chat_template": meta["tokenizer.chat_template"],
    }
    _write_json(out / "tokenizer_config.json", config | {names[name]: tokens[row] for name, row in special.items()})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
