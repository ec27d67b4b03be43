"""Growing a pretrained model: old rows stay, new rows start where the recipe says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pauserec.errors import ModelError, RunError
from pauserec.llm.model import LanguageModel
from pauserec.semantic_ids.codebooks import Codebooks
from pauserec.semantic_ids.codes import SemanticIds

Grow = Callable[..., Path]


def test_growing_keeps_old_rows_and_pads_the_table(base: Path, source: Path, sixteen: SemanticIds) -> None:
    model, old = LanguageModel.load(base, sixteen), AutoModelForCausalLM.from_pretrained(source)
    before = old.get_input_embeddings().weight
    torch.testing.assert_close(model.table[: len(before)], before, rtol=1e-3, atol=1e-6)
    assert model.vocabulary.used == len(before) + 2 + 8 + 1
    assert len(model.table) % 64 == 0
    assert len(torch.unique(model.table[model.vocabulary.first_sid : model.vocabulary.used], dim=0)) == 11


def test_rows_that_start_at_centroids_are_as_near_as_those(source: Path, grow: Grow, sixteen: SemanticIds) -> None:
    rng = np.random.default_rng(0)
    middle, far = rng.normal(size=(1, 32)), rng.normal(size=(2, 32))
    close = np.repeat(far, 2, axis=0) + 0.01 * rng.normal(size=(4, 32)) + middle
    levels = (close.astype(np.float32), rng.normal(size=(3, 32)).astype(np.float32))  # the last code has no centroid
    noise = LanguageModel.load(grow(source), sixteen)
    model = LanguageModel.load(grow(source, Codebooks(levels), new_rows="centroids"), sixteen)
    for table, drawn in ((model.table, noise.table), (model.head, noise.head)):
        first, second = (table[model.vocabulary.levels[level]] for level in (0, 1))
        apart = torch.cdist(first, first)
        assert max(apart[0, 1], apart[2, 3]) < 0.8 * apart[:2, 2:].min()
        old, first = table[: model.vocabulary.first_sid].detach(), first.detach()
        assert 0.7 < float((first - old.mean(0)).square().mean().sqrt() / old.std(0).square().mean().sqrt()) < 1.3
        assert not torch.equal(second[:3], drawn[model.vocabulary.levels[1]][:3])
    assert torch.equal(model.table[: model.vocabulary.code_offsets[0]], noise.table[: model.vocabulary.code_offsets[0]])
    last = model.vocabulary.pause - 1
    assert torch.equal(model.table[last:], noise.table[last:]), "no centroid: noise, as for <pause>"


def test_rows_that_start_at_the_mean_hardly_differ(source: Path, grow: Grow, sixteen: SemanticIds) -> None:
    noise, model = (LanguageModel.load(grow(source, new_rows=kind), sixteen) for kind in ("noise", "mean"))
    new = slice(model.vocabulary.first_sid, model.vocabulary.used)
    for table, drawn in ((model.table, noise.table), (model.head, noise.head)):
        mean = table[: new.start].mean(0)
        torch.testing.assert_close(table[new] - mean, 1e-9**0.5 * (drawn[new] - mean), atol=1e-6, rtol=0)
        assert not torch.equal(table[new.start], table[new.start + 1])


def test_centroids_that_are_not_there_are_named(tiny_model: Path, grow: Grow) -> None:
    with pytest.raises(RunError, match=r"codebooks\.safetensors is missing"):
        grow(tiny_model, new_rows="centroids")


def test_a_grown_model_is_not_grown_again(base: Path, grow: Grow) -> None:
    with pytest.raises(ModelError, match="already has"):
        grow(base)


def test_more_layers_than_there_are_is_refused(tiny_model: Path, grow: Grow) -> None:
    with pytest.raises(ModelError, match=r"model.layers is 9, but .* has 2"):
        grow(tiny_model, layers=9)
