"""The two largest logits found by groups of the vocabulary are those that a selection over all of it finds."""

from __future__ import annotations

import pytest
import torch

from dllm.sampling import GROUP, normaliser, two_best


@pytest.mark.parametrize("v", [4 * GROUP, 9 * GROUP, 4 * GROUP + 1, 3 * GROUP, 31])
@pytest.mark.parametrize("seed", range(5))
def test_as_a_selection(v: int, seed: int) -> None:
    logits = torch.randn(64, v, generator=torch.Generator().manual_seed(seed))
    logits[:, 5] = -torch.inf
    first = torch.arange(64) * 7 % (v - 1)
    logits[torch.arange(64), first] = 9.0  # the second is a neighbour in half of the rows, often of the same group
    logits[torch.arange(0, 64, 2), first[::2] + 1] = 8.0
    best, second, mode = two_best(logits)
    want = logits.topk(2)
    assert torch.equal(torch.cat((best, second), 1), want.values) and torch.equal(mode, want.indices[:, 0])


@pytest.mark.parametrize("where", [[3, 9], [3, 2 * GROUP]])
def test_equal_logits_are_both_found(where: list[int]) -> None:
    logits = torch.zeros(3, 4 * GROUP)
    logits[:, where] = 2.0
    best, second, mode = two_best(logits)
    assert (best == 2).all() and (second == 2).all() and (mode == 3).all()


@pytest.mark.parametrize("blank", [-torch.inf, 0.0, 60.0])
@pytest.mark.parametrize("spend", [True, False])
def test_the_normaliser_is_that_of_all_tokens(blank: float, spend: bool) -> None:
    logits = 20 * torch.randn(64, 4 * GROUP, generator=torch.Generator().manual_seed(0))
    logits[:, 7] = -torch.inf
    mask, before = torch.full((64, 1), blank), logits.clone()
    norm = normaliser(logits, logits.amax(1, keepdim=True), mask, spend=spend)
    want = torch.cat((before, mask), 1).double().logsumexp(1, keepdim=True)
    assert torch.allclose(norm.double(), want, rtol=2e-7, atol=1e-6)
    assert spend or torch.equal(logits, before)
