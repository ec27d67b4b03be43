"""The one rule of who sees whom: every executor gives what separate sequences give, for any documents and any window."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from backbones import flex_pass
from pauserec.llm.tree.cache import BranchPass, ExtendPass, TreeCache
from pauserec.llm.tree.passes import Pass, TreePass
from pauserec.llm.tree.rule import OPENING, TRUNK, Layout, visible

CPU = torch.device("cpu")
HEADS, GROUPS, WIDTH, SCALE = 2, 1, 8, 0.3
WINDOWS = st.none() | st.integers(1, 12)


@st.composite
def documents(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, int]]]]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        trunk = draw(st.integers(1, 20))
        branches = draw(st.lists(st.tuples(st.integers(1, trunk), st.integers(1, 6)), max_size=4))
        found.append((trunk, branches))
    return found


def drawn(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [1, H, N, D], keys and values [1, G, N, D]."""
    generator = torch.Generator().manual_seed(seed)
    heads = (HEADS, GROUPS, GROUPS)
    return tuple(torch.randn(1, count, tokens, WIDTH, generator=generator) for count in heads)  # type: ignore[return-value]


def alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, line: list[int], window: int | None) -> torch.Tensor:
    """What the last token of a sequence gets, whose tokens stand at these places of the row: [H, D]."""
    near = line[max(0, len(line) - window) :] if window is not None else line
    last = q[:, :, line[-1:]]
    return scaled_dot_product_attention(last, k[:, :, near], v[:, :, near], scale=SCALE, enable_gqa=True)[0, :, 0]


def lines(docs: list[tuple[int, list[tuple[int, int]]]], opening: int) -> list[list[int]]:
    """For every token of the row, the sequence that it ends: places in the row."""
    first = list(range(opening))
    found = [first[: place + 1] for place in first]
    start = opening
    for trunk, branches in docs:
        body = list(range(start, start + trunk))
        found += [first + body[: place + 1] for place in range(trunk)]
        start += trunk
        for attach, length in branches:
            own = list(range(start, start + length))
            found += [first + body[:attach] + own[: place + 1] for place in range(length)]
            start += length
    return found


@given(documents(), st.integers(0, 4), WINDOWS)
def test_a_token_sees_the_sequence_that_it_ends(
    docs: list[tuple[int, list[tuple[int, int]]]], opening: int, window: int | None
) -> None:
    layout, expected = Layout.of(docs, opening), lines(docs, opening)
    marks = layout.marks(CPU)
    seen = visible(marks[:, :, None], marks[:, None], window)
    for token, line in enumerate(expected):
        assert seen[token].nonzero()[:, 0].tolist() == (line if window is None else line[-window:])
        assert layout.place[token] == len(line) - 1
    _, trunks, lengths = layout.bounds()
    assert trunks.tolist() == [trunk for trunk, _ in docs]
    assert lengths.sum() + opening == len(expected)
    assert layout.opening == opening
    assert not np.any((layout.document == OPENING) & (layout.branch != TRUNK))


@pytest.mark.parametrize("kind", [TreePass, flex_pass])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(deadline=None, max_examples=60)
@given(docs=documents(), opening=st.integers(0, 4), window=WINDOWS)
def test_a_pass_over_whole_documents_equals_separate_sequences(
    kind: Callable[[Layout], Pass], docs: list[tuple[int, list[tuple[int, int]]]], opening: int, window: int | None
) -> None:
    expected = lines(docs, opening)
    q, k, v = drawn(len(expected), len(expected))
    tree: Pass = kind(Layout.of(docs, opening))
    output = tree.attend(0, q, k, v, SCALE, window)[0]
    for token, line in enumerate(expected):
        torch.testing.assert_close(output[:, token], alone(q, k, v, line, window), atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=3), WINDOWS, st.integers(0, 2**31)
)
def test_passes_over_a_cache_equal_separate_sequences(
    pieces: list[tuple[int, int]], window: int | None, seed: int
) -> None:
    """Prompts in two pieces, then two levels of beams, the second with children of some beams in the same pass."""
    rng, batch, beams, more = np.random.default_rng(seed), len(pieces), 3, 2
    cache = TreeCache(batch, max(map(sum, pieces)), 3 * beams + more, CPU)
    sequences: list[list[torch.Tensor]] = [[] for _ in pieces]  # keys and values of what each document's trunk holds

    def checked(tree: Pass, lines: list[list[torch.Tensor]], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        output = tree.attend(0, q, k, v, SCALE, window)[0]
        for token, line in enumerate(lines):
            keys = torch.stack(line if window is None else line[-window:], dim=2)
            alone = scaled_dot_product_attention(
                q[:, :, token : token + 1], keys[:1], keys[1:], scale=SCALE, enable_gqa=True
            )
            torch.testing.assert_close(output[:, token], alone[0, :, 0], atol=1e-5, rtol=1e-4)

    for piece in (0, 1):
        lengths = [lengths[piece] for lengths in pieces]
        if not sum(lengths):
            continue
        q, k, v = drawn(sum(lengths), seed + piece)
        pairs, row, ends = torch.cat([k, v]), 0, []
        for document, length in enumerate(lengths):
            for token in range(row, row + length):
                sequences[document].append(pairs[:, :, token])
                ends.append(list(sequences[document]))
            row += length
        checked(ExtendPass(cache, lengths), ends, q, k, v)

    ancestors: list[torch.Tensor] = []
    beam_lines = [[list(sequences[document]) for _ in range(beams)] for document in range(batch)]
    for level in (0, 1):
        owners = torch.from_numpy(rng.integers(beams, size=(batch, more))) if level else None
        width = beams + (more if level else 0)
        q, k, v = drawn(batch * width, seed + 10 + level)
        pairs = torch.cat([k, v])
        if level:
            parents = torch.from_numpy(rng.integers(beams, size=(batch, beams)))
            ancestors = [step.gather(1, parents) for step in ancestors] + [parents]
            beam_lines = [
                [list(rows[parent]) for parent in parents[document]] for document, rows in enumerate(beam_lines)
            ]
        ends = []
        for document in range(batch):
            for beam in range(beams):
                beam_lines[document][beam].append(pairs[:, :, document * width + beam])
                ends.append(list(beam_lines[document][beam]))
            for child in range(width - beams):
                owner = int(owners[document, child])  # type: ignore[index]
                ends.append([*beam_lines[document][owner], pairs[:, :, document * width + beams + child]])
        checked(BranchPass(cache, ancestors, beams, owners), ends, q, k, v)
