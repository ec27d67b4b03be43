"""Loss functions: pure, on hidden states and labels. M targets, D width, V vocabulary rows in use."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, linear

NEVER = -1e4
"""Score of a drawn row that is the target itself."""
POSITIONS_AT_ONCE = 256
"""Targets whose logits are held at once on a CPU: few enough to stay near the processor."""
LOGITS_ON_GPU = 2**27
"""Logits that are held at once on a GPU, twice: half a gigabyte in bfloat16, 2,700 targets of 50,000 rows."""


@dataclass(frozen=True)
class Head:
    """The output rows in use, [V, D]: all of one table, or a frozen table with a block of trained rows [n, D] at `first`."""

    table: Tensor
    rows: Tensor | None = None
    first: int = 0

    def pieces(self, only: slice | None = None) -> list[Tensor]:
        """The rows of a slice (all if None), in order: frozen ones before, trained ones, frozen ones after."""
        start, stop, _ = (only or slice(None)).indices(len(self.table))
        if self.rows is None:
            return [self.table[start:stop]]
        low, high = self.first, self.first + len(self.rows)
        spans = [
            self.table[start : min(low, stop)],
            self.rows[max(start - low, 0) : max(stop - low, 0)],
            self.table[max(high, start) : stop],
        ]
        return [span for span in spans if len(span)]

    def part(self, only: slice) -> "Head":
        """The rows of a slice as a head of their own: cut once, so a table's gradient is filled once."""
        pieces = self.pieces(only)
        return Head(pieces[0] if len(pieces) == 1 else torch.cat(pieces))

    def gathered(self, rows: Tensor, within: slice) -> Tensor:
        """Some rows of a slice, int64 [n] -> [n, D]; of a trained block in one go, so that its gradient is filled once."""
        if self.rows is None:
            return embedding(rows, self.table)
        if self.first <= within.start and within.stop <= self.first + len(self.rows):
            return embedding(rows - self.first, self.rows)
        return torch.cat(self.pieces())[rows]

    def logits(self, hidden: Tensor, only: slice | None = None) -> Tensor:
        """[..., D] -> [..., rows], of all rows or of a slice of them."""
        scores = [linear(hidden, piece.to(hidden.dtype)) for piece in self.pieces(only)]
        return scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)


@dataclass(frozen=True)
class Levels:
    """The rows of each level of codes, and how many targets it has; targets stand level by level, others behind them."""

    rows: Sequence[slice]
    counts: Sequence[int]

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Of every level that has targets: its rows, and where its targets stand."""
        start = 0
        for rows, count in zip(self.rows, self.counts, strict=True):
            if count:
                yield rows, slice(start, start + count)
            start += count


def full_softmax_loss(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    """Summed cross-entropy over the whole vocabulary. hidden [M, D], labels int64 [M].

    The logits [M, V] never exist at once, forward or backward, and frozen rows cost no gradient.
    """
    trained = head.table if head.rows is None else head.rows
    return _FullSoftmax.apply(hidden, trained, head, labels)  # type: ignore[no-any-return,no-untyped-call]


def codebook_softmax_loss(
    hidden: Tensor, labels: Tensor, levels: Levels, head: Head, negatives: int | None = None
) -> Tensor:
    """Summed cross-entropy, each target against the codes of its own level only.

    hidden [M, D], labels int64 [M] (token rows), level by level. negatives: a level with more codes than this is stood for
    by so many of them, drawn evenly anew each time, that count for all (Bengio & Senécal 2003, importance sampling with an
    even proposal).
    """
    total = hidden.new_zeros((), dtype=torch.float32)
    if not len(labels):  # of several processes one may have none: its gradients are zeros, not missing
        return hidden.sum() + sum(0.0 * piece.sum() for piece in head.pieces())
    start = min(rows.start for rows in levels.rows)
    many = [negatives is not None and rows.stop - rows.start > negatives for rows in levels.rows]
    codes = None if all(many) else head.part(slice(start, max(rows.stop for rows in levels.rows)))
    for rows, chosen in levels:
        states, targets = hidden[chosen], labels[chosen]
        if codes is None or (negatives is not None and rows.stop - rows.start > negatives):
            scores = _candidates(states, targets, rows, _drawn(rows, negatives or 1, hidden), head)
            total = total + cross_entropy(scores, torch.zeros_like(targets), reduction="sum")
        else:
            scores = codes.logits(states, slice(rows.start - start, rows.stop - start)).float()
            total = total + cross_entropy(scores, targets - rows.start, reduction="sum")
    return total


def taught_codebook_loss(
    hidden: Tensor,
    taught: Tensor,
    labels: Tensor,
    levels: Levels,
    heads: tuple[Head, Head],
    weight: float,
    negatives: int | None = None,
) -> Tensor:
    """As `codebook_softmax_loss`, against targets that are `weight` of a teacher's probabilities, the rest the label itself.

    hidden, taught [M, D]: states of student and teacher for the same labels [M]. heads: theirs.
    """
    total = hidden.new_zeros((), dtype=torch.float32)
    for rows, chosen in levels:
        own, states = labels[chosen] - rows.start, (hidden[chosen], taught[chosen])
        drawn = None
        if negatives is not None and rows.stop - rows.start > negatives:
            drawn = _drawn(rows, negatives, hidden)
        student, teacher = (
            head.logits(state, rows).float() if drawn is None else _candidates(state, labels[chosen], rows, drawn, head)
            for state, head in zip(states, heads, strict=True)
        )
        right = own if drawn is None else torch.zeros_like(own)
        wanted = weight * teacher.softmax(-1)
        wanted[torch.arange(len(right), device=right.device), right] += 1 - weight
        total = total + cross_entropy(student, wanted, reduction="sum")
    return total


def _drawn(rows: slice, count: int, like: Tensor) -> Tensor:
    """Token rows of a level, drawn evenly: int64 [count]."""
    return torch.randint(rows.start, rows.stop, (count,), device=like.device)


def _candidates(hidden: Tensor, labels: Tensor, rows: slice, drawn: Tensor, head: Head) -> Tensor:
    """Scores of each target's own row and of the drawn ones, which count for all of the level [M, 1 + n]."""
    found = head.gathered(torch.cat([labels, drawn]), rows)
    right = (hidden.float() * found[: len(labels)].float()).sum(-1, keepdim=True)
    weight = math.log((rows.stop - rows.start - 1) / len(drawn))
    wrong = linear(hidden, found[len(labels) :].to(hidden.dtype)).float() + weight
    return torch.cat([right, wrong.masked_fill(drawn == labels[:, None], NEVER)], dim=1)


class _FullSoftmax(torch.autograd.Function):
    """Gradients are made chunk by chunk in the forward pass, from the probabilities while they are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, trained: Tensor, head: Head, labels: Tensor) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        weight = head.table.to(dtype, copy=head.rows is not None)
        span = slice(head.first, head.first + len(trained))
        if head.rows is not None:
            weight[span] = head.rows.to(dtype)
        loss = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_trained = torch.zeros_like(trained) if ctx.needs_input_grad[1] else None
        # two buffers serve all chunks: memory fresh from the system costs a CPU a fifth of the product and more
        at_once = POSITIONS_AT_ONCE if kind == "cpu" else max(POSITIONS_AT_ONCE, LOGITS_ON_GPU // len(weight))
        buffers = weight.new_empty(2, min(at_once, len(hidden)), len(weight))
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), at_once):
                part = slice(start, start + at_once)
                states, target = hidden[part].to(dtype), labels[part]
                logits, error = buffers[:, : len(states)]
                torch.mm(states, weight.T, out=logits)
                largest, wanted = logits.amax(-1), logits.gather(1, target[:, None])[:, 0]
                # inside, softmax works in float32; no float32 copy of the logits is ever made
                torch.softmax(logits, -1, out=error)
                # the largest probability never underflows, the target's might
                loss += (largest.float() - wanted.float() - error.amax(-1).float().log()).sum()
                if grad_hidden is None and grad_trained is None:
                    continue
                # minus what the others have, summed in float32: p - 1 in bfloat16 is 0 for every p above .998
                error.scatter_(1, target[:, None], 0.0)
                others = error.sum(-1, keepdim=True, dtype=torch.float32)
                error.scatter_(1, target[:, None], -others.to(dtype))
                if grad_hidden is not None:
                    grad_hidden[part] = (error @ weight).to(hidden.dtype)
                if grad_trained is not None:
                    grad_trained += (error[:, span].T @ states).to(trained.dtype)
        ctx.save_for_backward(grad_hidden, grad_trained)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        scaled = [None if grad is None else grad * grads[0] for grad in ctx.saved_tensors]
        return scaled[0], scaled[1], None, None
