"""The two largest logits found by groups of the vocabulary are those that a selection over all of it finds."""

from __future__ import annotations

import pytest
import torch

from dllm.engine.propose import GROUP, measure_scale, two_largest
from dllm.types import LEAST


@pytest.mark.parametrize("v", [4 * GROUP, 9 * GROUP, 4 * GROUP + 1, 3 * GROUP, 31])
@pytest.mark.parametrize("seed", range(5))
def test_as_a_selection(v: int, seed: int) -> None:
    logits = torch.randn(64, v, generator=torch.Generator().manual_seed(seed))
    logits[:, 5] = -torch.inf
    first = torch.arange(64) * 7 % (v - 1)
    logits[torch.arange(64), first] = 9.0  # the second is a neighbour in half of the rows, often of the same group
    logits[torch.arange(0, 64, 2), first[::2] + 1] = 8.0
    best, second, mode = two_largest(logits)
    want = logits.topk(2)
    assert torch.equal(torch.cat((best, second), 1), want.values) and torch.equal(mode, want.indices[:, 0])


@pytest.mark.parametrize("where", [[3, 9], [3, 2 * GROUP]])
def test_equal_logits_are_both_found(where: list[int]) -> None:
    logits = torch.zeros(3, 4 * GROUP)
    logits[:, where] = 2.0
    best, second, mode = two_largest(logits)
    assert (best == 2).all() and (second == 2).all() and (mode == 3).all()


@pytest.mark.parametrize("highest", [0.0, 60.0])
@pytest.mark.parametrize("spend", [True, False])
@pytest.mark.parametrize("size", [2.0, 20.0])
def test_probabilities_are_those_of_a_softmax(highest: float, spend: bool, size: float) -> None:
    logits = size * torch.randn(64, 4 * GROUP, generator=torch.Generator().manual_seed(0))
    logits[:, 7], logits[:, 8] = -torch.inf, highest
    before = logits.clone()
    scale = measure_scale(logits, logits.amax(1, keepdim=True), spend=spend)
    assert spend or torch.equal(logits, before)
    want = before.double().softmax(1)
    likely = want > 1e-30
    found = scale.probability(before).double()
    assert (found[likely] / want[likely] - 1).abs().max() < 1e-5 and found[~likely].max() < 2e-30
    top = want > 1e-3
    assert (found[top] / want[top] - 1).abs().max() < 1e-6


def test_where_all_is_ruled_out_it_is_shared() -> None:
    """A constraint allows two tokens that the model rules out."""
    logits = torch.full((1, 4 * GROUP), -torch.inf)
    logits[:, [3, 9]] = LEAST
    scale = measure_scale(logits, logits.amax(1, keepdim=True), spend=False)
    assert scale.probability(logits)[0, [3, 9, 10]].tolist() == [0.5, 0.5, 0.0]
