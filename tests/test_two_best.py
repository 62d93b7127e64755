"""The two largest logits found by groups of the vocabulary are those that a selection over all of it finds."""

from __future__ import annotations

import pytest
import torch

from dllm.sampling import GROUP, two_best


@pytest.mark.parametrize("v", [4 * GROUP, 9 * GROUP, 4 * GROUP + 1, 3 * GROUP, 31])
@pytest.mark.parametrize("seed", range(5))
def test_as_a_selection(v: int, seed: int) -> None:
    logits = torch.randn(64, v, generator=torch.Generator().manual_seed(seed))
    logits[:, 5] = -torch.inf
    first = torch.arange(64) * 7 % (v - 1)
    logits[torch.arange(64), first] = 9.0  # the second is a neighbour in half of the rows, often of the same group
    logits[torch.arange(0, 64, 2), first[::2] + 1] = 8.0
    values, places = two_best(logits)
    want = logits.topk(2)
    assert torch.equal(values, want.values) and torch.equal(places, want.indices)


def test_equal_logits_give_two_places() -> None:
    values, places = two_best(torch.zeros(3, 4 * GROUP))
    assert (values == 0).all() and (places[:, 0] != places[:, 1]).all() and (places < 4 * GROUP).all()
