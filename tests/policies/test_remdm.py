"""ReMDM's promise, by statistics over many seeds: however much is masked again, as much is decided as the time says."""

from __future__ import annotations

import pytest
import torch

from dllm import ByConfidence, Capped, NoCache, RemaskLoop, ReMDM, Request, Rescaled, Sampling, Strategy, Whole, theory
from dllm.models.tabular import TabularModel
from dllm.testing import laws

ROWS, COLUMNS = 3000, 4
LAW = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5], [0.95, 0.05]], dtype=torch.float64)


def stream(policy: ReMDM):
    requests = [Request((0,), COLUMNS, seed=i) for i in range(ROWS)]
    strategy = Strategy(policy, Whole(), NoCache(), Sampling(1.0))
    return laws.run_batch(TabularModel(theory.product_joint(LAW)), requests, strategy)[0]


def decided(policy: ReMDM) -> list[float]:
    return [float((~step.canvas.pending[:, 1:]).double().mean()) for step in stream(policy)]


def within(share: float, want: float) -> bool:
    """Whether a share of all columns is what it should be, up to 4.5 standard errors."""
    return abs(share - want) <= 4.5 * (want * (1 - want) / (ROWS * COLUMNS)) ** 0.5 + 1e-9


@pytest.mark.parametrize("remask", [Capped(0.0), Capped(0.1), Capped(0.5), Rescaled(0.3), Rescaled(1.0)], ids=str)
def test_as_much_is_decided_as_without_remasking(remask) -> None:
    steps = stream(ReMDM(8, remask))
    shares = [float((~step.canvas.pending[:, 1:]).double().mean()) for step in steps]
    assert len(shares) == 8 and all(within(got, (i + 1) / 8) for i, got in enumerate(shares)), shares
    revoked = sum(int(step.revoke.sum()) for step in steps)
    assert (revoked > 0.1 * ROWS * COLUMNS) == (remask.eta > 0)


def test_also_in_a_loop() -> None:
    loop = RemaskLoop(0.5, 0.25, 0.75)
    shares = decided(ReMDM(8, Capped(0.2), loop, eps=1e-6))
    want = [0.1875, 0.375, 0.5625, 0.75, 0.75, 0.75, 0.875, 1.0]
    assert all(within(got, x) for got, x in zip(shares, want, strict=True)), shares


def test_by_confidence_decides_less() -> None:
    """Nothing is committed in place of what is masked again, as published: that marginal is not kept."""
    shares = decided(ReMDM(8, ByConfidence()))
    assert all(got < (i + 1) / 8 and not within(got, (i + 1) / 8) for i, got in enumerate(shares[1:-1], start=1))
    assert shares[-1] == 1


def test_the_text_keeps_its_law() -> None:
    """Where positions are independent, what is masked and drawn again has the law that it had (0.1 % level each)."""
    answers = stream(ReMDM(6, Rescaled(1.0)))[-1].canvas.tokens[:, 1:].double()
    ones = answers.mean(0)
    error = (LAW[:, 1] * LAW[:, 0] / ROWS).sqrt()
    assert ((ones - LAW[:, 1]).abs() < 3.6 * error).all(), ones.tolist()
    pairs = torch.corrcoef(answers.T) - torch.eye(COLUMNS)
    assert pairs.abs().max() < 4 / ROWS**0.5
