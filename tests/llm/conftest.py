"""The tiny model grown by sixteen items' IDs of two codes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pauserec.config import ModelConfig
from pauserec.llm.growth import grow_vocabulary
from pauserec.runs.steps import FinishedStep
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import SemanticIds

Grow = Callable[..., Path]


@pytest.fixture(scope="session")
def sixteen() -> SemanticIds:
    return SemanticIds(np.array([[a, b] for a in range(4) for b in range(4)]), (4, 4))


@pytest.fixture(params=["tied", "untied"])
def source(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, or the same with a head of its own."""
    if request.param == "tied":
        return tiny_model
    config = LlamaConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = False
    LlamaForCausalLM(config).save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


@pytest.fixture
def grow(sixteen: SemanticIds, tmp_path: Path) -> Grow:
    """Runs the "base" step: grow(MODEL_FOLDER, **settings of the model) is its folder."""

    def grown(name: Path, codebooks: Codebooks | None = None, **settings: object) -> Path:
        ids, out = tmp_path / "ids", tmp_path / f"base-{len(list(tmp_path.iterdir()))}"
        ids.mkdir(exist_ok=True)
        out.mkdir()
        sixteen.save(ids)
        if codebooks is not None:
            codebooks.save(ids)
        config = ModelConfig.model_validate({"name": str(name)} | settings)
        grow_vocabulary(config, FinishedStep("semantic_ids", ids, "f", {}), out=out, log=lambda **_: None)
        return out

    return grown


@pytest.fixture
def base(source: Path, grow: Grow) -> Path:
    return grow(source)
