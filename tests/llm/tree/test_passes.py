"""A tree pass gives the states of separate sequences, for every attention layout we claim."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    LlamaConfig,
    PreTrainedConfig,
)

from backbones import CONFIGS, SHAPE, as_tree, flex_pass, make, separately
from pauserec.errors import ModelError
from pauserec.llm.tree.passes import LITTLE, MUCH, Pass, TreePass, tree_attention
from pauserec.llm.tree.rule import Layout


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("opening", [0, 5])
@pytest.mark.parametrize(("kind", "padding"), [(TreePass, LITTLE), (TreePass, MUCH), (flex_pass, LITTLE)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_branches_equal_separate_sequences(
    config: PreTrainedConfig,
    opening: int,
    kind: Callable[[Layout], Pass],
    padding: tuple[float, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pauserec.llm.tree.passes.LITTLE", padding)
    model = make(config)
    documents = [(12, [(5, 4), (12, 3), (8, 2)]), (7, []), (9, [(9, 10)])]
    lengths = [opening, *(trunk + sum(length for _, length in branches) for trunk, branches in documents)]
    first, *rows = [torch.randint(0, 100, (n,)) for n in lengths]
    states = as_tree(model, torch.cat([first, *rows]), kind(Layout.of(documents, opening)))
    opened, *found = states.split(lengths)
    for (start, branches), ids, states in zip(documents, rows, found, strict=True):
        trunk = separately(model, torch.cat([first, ids[:start]]))
        torch.testing.assert_close(torch.cat([opened, states[:start]]), trunk, atol=1e-4, rtol=0)
        for attach, length in branches:
            alone = separately(model, torch.cat([first, ids[:attach], ids[start : start + length]]))
            torch.testing.assert_close(states[start : start + length], alone[opening + attach :], atol=1e-4, rtol=0)
            start += length


def test_input_embeddings_receive_the_same_gradient() -> None:
    model = make(LlamaConfig(**SHAPE))
    ids = torch.randint(0, 100, (9,))
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    tree = TreePass(Layout.of([(6, [(4, 3)])]))
    model.set_attn_implementation(tree_attention())
    out = model.base_model(
        inputs_embeds=embedded[None], position_ids=tree.positions(), use_cache=False, tree=tree
    ).last_hidden_state[0]
    (gradient,) = torch.autograd.grad(out[-1].sum(), embedded)
    assert (gradient[4:6] == 0).all(), "a branch must not depend on trunk tokens after its attach point"
    assert (gradient[:4] != 0).any()


def test_a_pass_without_a_tree_is_refused_rather_than_guessed() -> None:
    model = make(LlamaConfig(**SHAPE))
    model.set_attn_implementation(tree_attention())
    with pytest.raises(ModelError, match="sdpa"):
        model(input_ids=torch.zeros(1, 3, dtype=torch.int64))
