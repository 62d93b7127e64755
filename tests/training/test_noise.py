"""Noise and its complement: only supervised tokens, each in exactly one copy, at the rate drawn for its block."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dllm.training.noise import IGNORE, complement_mask, draw_noise, select_noised_labels


@st.composite
def labelled(draw: st.DrawFn) -> Tensor:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    flags = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return torch.where(torch.tensor(flags).view(rows, columns), 7, IGNORE)


@given(labelled(), st.integers(1, 12), st.integers(0, 99))
def test_every_supervised_token_is_masked_in_exactly_one_copy(labels: Tensor, block: int, seed: int) -> None:
    noised = draw_noise(labels, block, rng=torch.Generator().manual_seed(seed))
    other = complement_mask(noised, labels)
    assert torch.equal(noised ^ other, labels != IGNORE)
    assert not (noised & other).any()
    kept, rest = select_noised_labels(labels, noised), select_noised_labels(labels, other)
    assert torch.equal(torch.where(kept != IGNORE, kept, rest), labels)


def test_a_seed_decides_the_noise() -> None:
    labels = torch.zeros(3, 50, dtype=torch.int64)
    one, two = (draw_noise(labels, 8, rng=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)


def test_rates_are_uniform_and_belong_to_one_block_of_one_row() -> None:
    labels = torch.zeros(200, 4 * 500, dtype=torch.int64)
    noised = draw_noise(labels, 500, rng=torch.Generator().manual_seed(0))
    rates = noised.float().view(200, 4, 500).mean(-1)
    assert abs(rates.mean() - 0.5) < 0.05 and abs(rates.std() - 12**-0.5) < 0.02
    assert abs(torch.corrcoef(rates.T)[0, 1]) < 0.2


def test_eps_is_the_lowest_rate() -> None:
    labels = torch.zeros(10, 10, dtype=torch.int64)
    assert draw_noise(labels, 5, eps=1.0).all()


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="block=0"):
        draw_noise(torch.zeros(1, 1, dtype=torch.int64), 0)
