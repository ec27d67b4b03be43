"""Planned batches: every sample once an epoch, within the limit, the same for the same seed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauserec.errors import RecipeError
from pauserec.training.batches import Batches, pack

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def plan(lengths: list[int], epochs: float = 1.0, seed: int = 0, limit: int = 60) -> Batches[int]:
    def make(samples: Sequence[int]) -> dict[str, np.ndarray]:
        return {"tokens": np.repeat(samples, [lengths[sample] for sample in samples])}

    return Batches(
        lambda epoch, rng: range(len(lengths)),
        lambda sample: lengths[sample],
        make,
        epochs=epochs,
        batch_tokens=limit,
        seed=seed,
    )


@given(LENGTHS, st.integers(1, 80))
def test_packing_takes_every_sample_once_within_the_limit(lengths: list[int], limit: int) -> None:
    batches = pack(lengths, limit, range(len(lengths)))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[index] for index in batch) <= limit for batch in batches)


@given(LENGTHS, st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_meets_every_sample_once_in_a_repeatable_order(lengths: list[int], epochs: int, seed: int) -> None:
    batches, again = plan(lengths, epochs, seed), plan(lengths, epochs, seed)
    tokens = Counter(np.concatenate([batches[n]["tokens"] for n in range(len(batches))]).tolist())
    assert tokens == {sample: epochs * length for sample, length in enumerate(lengths)}
    assert all((batches[n]["tokens"] == again[n]["tokens"]).all() for n in range(len(batches)))
    assert batches.tokens == epochs * sum(lengths)
    assert batches.epoch_ends[-1] == len(batches)


def test_half_an_epoch_is_half_its_batches() -> None:
    assert len(plan([30] * 20, 0.5)) == len(plan([30] * 20)) // 2
    assert len(plan([30] * 20, 1.5)) == 3 * len(plan([30] * 20, 0.5))


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(RecipeError, match="nothing to train on"):
        plan([])
