"""Our losses equal the textbook computation, values and gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from pauserec.training import losses
from pauserec.training.losses import Head, Levels, codebook_softmax_loss, full_softmax_loss, taught_codebook_loss


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden, table = torch.randn(700, 16, requires_grad=True), torch.randn(90, 16, requires_grad=True)
    return hidden, table, torch.randint(0, 90, (700,))


def by_level(labels: torch.Tensor, *rows: slice) -> tuple[Levels, torch.Tensor]:
    """Levels, and the order in which targets stand level by level."""
    of = [((labels >= level.start) & (labels < level.stop)).nonzero()[:, 0] for level in rows]
    return Levels(rows, [len(own) for own in of]), torch.cat(of)


def test_full_softmax_equals_cross_entropy(case: tuple[torch.Tensor, ...]) -> None:
    hidden, table, labels = case
    assert len(hidden) > 2 * losses.POSITIONS_AT_ONCE, "several chunks, the last one short"
    ours, plain = (
        full_softmax_loss(hidden, labels, Head(table)),
        cross_entropy(linear(hidden, table), labels, reduction="sum"),
    )
    torch.testing.assert_close(ours, plain)
    found = torch.autograd.grad(ours * 0.5, [hidden, table])
    expected = torch.autograd.grad(plain * 0.5, [hidden, table])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_only_the_trained_rows_of_a_frozen_table_get_a_gradient(case: tuple[torch.Tensor, ...]) -> None:
    hidden, table, labels = case
    rows = table[20:30].detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(full_softmax_loss(hidden, labels, Head(table.detach(), rows, 20)), [rows])
    plain = cross_entropy(linear(hidden, table), labels, reduction="sum")
    (expected,) = torch.autograd.grad(plain, [table])
    torch.testing.assert_close(found, expected[20:30], atol=1e-5, rtol=1e-5)


def test_codebook_softmax_looks_at_the_targets_level_alone(case: tuple[torch.Tensor, ...]) -> None:
    hidden, table, labels = case
    levels, order = by_level(labels, slice(0, 40), slice(40, 90))
    ours = codebook_softmax_loss(hidden[order], labels[order], levels, Head(table))
    logits = linear(hidden, table)
    other = (torch.arange(90) < 40) != (labels < 40)[:, None]
    expected = cross_entropy(logits.masked_fill(other, -torch.inf), labels, reduction="sum")
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("only", [None, slice(0, 20), slice(15, 25), slice(22, 28), slice(25, 90), slice(30, 90)])
def test_a_head_with_trained_rows_gives_the_merged_tables_logits(
    case: tuple[torch.Tensor, ...], only: slice | None
) -> None:
    hidden, table, _ = case
    merged = table.detach().clone()
    merged[20:30] += 1
    head = Head(table.detach(), merged[20:30], 20)
    torch.testing.assert_close(head.logits(hidden, only), linear(hidden, merged[only or slice(None)]))


def test_drawn_codes_stand_for_a_level(case: tuple[torch.Tensor, ...]) -> None:
    """Over many draws the mean of the partition function is that of all codes, so the loss is near the whole one's."""
    hidden, table, labels = case[0] / 4, *case[1:]
    levels = Levels([slice(0, 90)], [len(labels)])
    whole = codebook_softmax_loss(hidden, labels, levels, Head(table))
    drawn = torch.stack([codebook_softmax_loss(hidden, labels, levels, Head(table), 60) for _ in range(40)])
    assert abs(drawn.mean() / whole - 1) < 0.01
    assert drawn.std() > 0, "they are drawn anew each time"
    assert codebook_softmax_loss(hidden, labels, levels, Head(table), 90) == whole


def test_a_taught_loss_is_between_the_label_and_the_teacher(case: tuple[torch.Tensor, ...]) -> None:
    hidden, table, labels = case
    levels, order = by_level(labels, slice(0, 40), slice(40, 90))
    hidden, labels = hidden[order], labels[order]
    heads, taught = (Head(table), Head(table.detach() * 2)), torch.randn(700, 16)
    by_label = taught_codebook_loss(hidden, taught, labels, levels, heads, 0.0)
    torch.testing.assert_close(by_label, codebook_softmax_loss(hidden, labels, levels, Head(table)))
    by_teacher = taught_codebook_loss(hidden, taught, labels, levels, heads, 1.0)
    expected = torch.zeros(())
    for rows, chosen in levels:
        wanted = linear(taught[chosen], table.detach()[rows] * 2).softmax(-1)
        expected = expected - (wanted * linear(hidden[chosen], table[rows]).log_softmax(-1)).sum()
    torch.testing.assert_close(by_teacher, expected)
    between = taught_codebook_loss(hidden, taught, labels, levels, heads, 0.25)
    torch.testing.assert_close(between, 0.75 * by_label + 0.25 * by_teacher)
