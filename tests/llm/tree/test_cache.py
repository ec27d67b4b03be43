"""Passes over cached trunks give the states of separate sequences: cold, behind a kept prefix, and as beams."""

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from backbones import CONFIGS, as_tree, make, separately
from pauserec.llm.tree.cache import BranchPass, ExtendPass, TreeCache

CPU = torch.device("cpu")


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def tokens(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(0, 100, (length,)) for length in lengths]


def run(model: PreTrainedModel, cache: TreeCache, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    lengths = [len(row) for row in rows]
    return list(as_tree(model, torch.cat(rows), ExtendPass(cache, lengths)).split(lengths))


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_a_prompt_in_pieces_equals_the_prompt_at_once(config: PreTrainedConfig) -> None:
    model, cache = make(config), TreeCache(3, 20, 0, CPU)
    first, second, third = tokens(12, 7, 1), tokens(3, 9, 0), tokens(1, 4, 2)
    for pieces in (first, second, third):
        found = run(model, cache, pieces)
    whole = [torch.cat(parts) for parts in zip(first, second, third, strict=True)]
    assert cache.past == [16, 20, 3]
    for states, ids in zip(found, whole, strict=True):
        close(states, separately(model, ids)[-len(states) :])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("cold", [0, 1, 2])
@torch.no_grad()
def test_a_kept_prefix_equals_running_it(config: PreTrainedConfig, cold: int) -> None:
    model, (kept, *rests) = make(config), tokens(8, 5, 2)
    before = TreeCache(1, 9, 4, CPU)
    run(model, before, [torch.cat([kept, kept[:1]])])
    cache = TreeCache(2, 20, 6, CPU)
    prefix = before.prefix(0, 8)
    cache.restore([None if row < cold else prefix for row in range(2)])
    whole = [torch.cat([kept, rest]) for rest in rests]
    found = run(model, cache, [ids if row < cold else ids[8:] for row, ids in enumerate(whole)])
    for states, ids in zip(found, whole, strict=True):
        close(states, separately(model, ids)[-len(states) :])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("lengths", [(12, 7), (9,)])
@torch.no_grad()
def test_beams_see_their_ancestors_only(config: PreTrainedConfig, lengths: tuple[int, ...]) -> None:
    model, beams, batch = make(config), 3, len(lengths)
    trunks = tokens(*lengths)
    cache = TreeCache(batch, max(lengths), 3 * beams, CPU)
    run(model, cache, trunks)
    steps = [torch.randint(0, 100, (batch, beams)) for _ in range(3)]
    parents = [torch.randint(0, beams, (batch, beams)) for _ in range(2)]
    # as the search keeps them: of each earlier step, the token that every beam of now descends from
    second = [parents[0]]
    third = [parents[0].gather(1, parents[1]), parents[1]]
    for step, ancestors in zip(steps, ([], second, third), strict=True):
        states = as_tree(model, step.flatten(), BranchPass(cache, ancestors, beams)).view(batch, beams, -1)
    for row in range(batch):
        for beam in range(beams):
            path = [steps[0][row, third[0][row, beam]], steps[1][row, third[1][row, beam]], steps[2][row, beam]]
            close(states[row, beam], separately(model, torch.cat([trunks[row], torch.stack(path)]))[-1])


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_beams_and_their_children_in_one_pass(config: PreTrainedConfig) -> None:
    model, beams, (first, second) = make(config), 2, tokens(9, 4)
    cache = TreeCache(2, 9, 4 * beams, CPU)
    run(model, cache, [first, second])
    steps, parents = torch.randint(0, 100, (2, 2, beams)), torch.randint(0, beams, (2, beams))
    as_tree(model, steps[0].flatten(), BranchPass(cache, [], beams))
    owners, children = torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.randint(0, 100, (2, 3))
    both = torch.cat([steps[1], children], dim=1)
    states = as_tree(model, both.flatten(), BranchPass(cache, [parents], beams, owners)).view(2, 5, -1)
    for row, trunk in enumerate((first, second)):
        for place in range(5):
            beam = place if place < beams else owners[row, place - beams]
            path = [steps[0][row, parents[row, beam]], steps[1][row, beam]]
            path += [children[row, place - beams]] if place >= beams else []
            close(states[row, place], separately(model, torch.cat([trunk, torch.stack(path)]))[-1])


@torch.no_grad()
def test_too_small_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="room"):
        ExtendPass(TreeCache(1, 3, 0, CPU), [4])
