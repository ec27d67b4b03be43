"""Compiled layers train as transformers' own do."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, Qwen3Config

from backbones import SHAPE, as_tree, flex_pass, make
from pauserec.llm.layers.trained import TrainedBackbone, can_train
from pauserec.llm.tree.passes import Pass, TreePass
from pauserec.llm.tree.rule import Layout

DOCUMENTS = Layout.of([(12, [(5, 4), (12, 3)]), (9, [])], 5)
KINDS = [LlamaConfig(**SHAPE), LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True), Qwen3Config(**SHAPE)]


def gradients(model: nn.Module, states: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = {name: p for name, p in model.named_parameters() if "lm_head" not in name and "embed" not in name}
    found = torch.autograd.grad(
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum(), weights.values()
    )
    return dict(zip(weights, found, strict=True))


@pytest.mark.parametrize("config", KINDS, ids=["llama", "with-biases", "qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_and_gradients_are_those_of_transformers(config: PreTrainedConfig, checkpointing: bool) -> None:
    model, ids = make(config), torch.randint(0, 100, (len(DOCUMENTS.place),))
    assert can_train(model.base_model)
    tree: Pass = TreePass(DOCUMENTS)
    plain = as_tree(model, ids, tree)
    backbone = TrainedBackbone(model.base_model, checkpointing=checkpointing)
    ours = backbone.hidden(model.get_input_embeddings()(ids), tree)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    wanted = gradients(model, plain)
    for name, found in gradients(model, ours).items():
        torch.testing.assert_close(found, wanted[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("fixed", [False, True])
def test_rows_of_any_length_share_the_code_and_of_one_length_have_their_own(fixed: bool) -> None:
    torch._dynamo.reset()
    model = make(KINDS[0])
    backbone, graphs = TrainedBackbone(model.base_model, fixed=fixed), []
    for length in (30, 41, 30, 52, 30):
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        ids, tree = torch.randint(0, 100, (length,)), TreePass(Layout.of_trunks([length - 9, 9]))
        ours = backbone.hidden(model.get_input_embeddings()(ids), tree)
        torch.testing.assert_close(ours, as_tree(model, ids, tree), atol=1e-5, rtol=1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)
    wanted = [2, 2, 0, 2, 0] if fixed else [2, 2, 0, 0, 0]
    assert graphs == wanted, "one for each half, all layers together; the second length makes code for any"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_padding_that_is_a_document_of_its_own_changes_nothing_before_it() -> None:
    model, tokens = make(KINDS[0]), len(DOCUMENTS.place)
    ids, size = torch.randint(0, 100, (64,)), 64
    filled = DOCUMENTS.filled(size)
    assert (filled.document[tokens:] == filled.document[tokens - 1] + 1).all()
    with torch.no_grad():
        whole = as_tree(model, ids, flex_pass(filled))
        alone = as_tree(model, ids[:tokens], TreePass(DOCUMENTS))
    torch.testing.assert_close(whole[:tokens], alone, atol=1e-5, rtol=1e-5)


def test_dropout_acts_in_training_alone() -> None:
    model, ids = make(KINDS[0]), torch.randint(0, 100, (len(DOCUMENTS.place),))
    backbone, tree = TrainedBackbone(model.base_model, rate=0.5), TreePass(DOCUMENTS)
    embedded = model.get_input_embeddings()(ids)
    plain = backbone.hidden(embedded, tree)
    torch.testing.assert_close(backbone.hidden(embedded, tree), plain)
    model.train()
    assert not torch.allclose(backbone.hidden(embedded, tree), plain, atol=1e-3)


def test_adapters_train_through_their_own_code() -> None:
    model = make(KINDS[0])
    layer = model.base_model.layers[1]
    layer.mlp.up_proj = nn.Sequential(layer.mlp.up_proj)
    assert not can_train(model.base_model)
