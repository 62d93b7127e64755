"""Budgets keep their bound: the exact law of what the loop draws, against the joint, for every text at once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm.engine.propose
from dllm import (
    Blocks,
    ConfigError,
    EntropyBound,
    ErrorBudget,
    NoCache,
    Request,
    Sampling,
    SequenceBudget,
    Strategy,
    Threshold,
    Whole,
    theory,
)
from dllm.engine.loop import steps
from dllm.models.tabular import TabularModel
from dllm.signals import Entropy
from tests.policies.board import accepted, board, committed
from tests.theory.test_theory import joints


def deficits(guess, commit):
    """What a step costs in total variation, at most: nothing where a slot is alone."""
    return torch.where(commit, 1 - guess.p1, 0).clamp(min=0).sum(1) * (commit.sum(1) > 1)


def law_of(joint: torch.Tensor, policy, scheduler=Whole(), price=deficits):
    """The exact law (v,)*n of the loop at temperature 1, what each text (v^n,) pays by the price of its steps, and the
    dearest step: one row a text, its draws made to be that text.

    A row's chance is the product of the chances of its draws; the loop, policy and marginals are the real ones.
    """
    n, v = joint.dim(), joint.shape[0]
    texts = torch.tensor(list(itertools.product(range(v), repeat=n)))
    model = TabularModel(joint)

    def forced(logits, scale, where, sampling):
        tokens = texts[where.row, where.column - 1]
        return tokens, scale.probability(logits.gather(-1, tokens.unsqueeze(-1))).squeeze(-1)

    chance, paid = torch.ones(len(texts), dtype=torch.float64), torch.zeros(len(texts), dtype=torch.float64)
    requests = [Request((0,), max_new_tokens=n, seed=0)] * len(texts)
    most = torch.zeros(())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dllm.engine.propose, "_sample_tokens", forced)
        for step in steps(model, requests, Strategy(policy, scheduler, NoCache(), Sampling(temperature=1.0))):
            chance *= torch.where(step.commit, step.guess.confidence, 1).double().prod(1)
            cost = price(step.guess, step.commit)
            paid += cost
            most = torch.maximum(most, cost.max())
        assert (step.canvas.tokens[:, 1:] == texts).all()
    return chance.unflatten(0, (v,) * n), paid, float(most)


def test_by_hand() -> None:
    """Deficits 0.05 0.1 0.2 in the order of slots 1, 0, 3."""
    view = board([0.9, 0.95, None, 0.8])
    assert accepted(ErrorBudget(0.16), view) == [[0, 1]]
    assert accepted(ErrorBudget(0.36), view) == [[0, 1, 3]]
    assert accepted(ErrorBudget(0.0), view) == [[]] and committed(ErrorBudget(0.0), view) == [[1]]


def test_the_sequence_pays_for_company_only() -> None:
    canvas, window, guess = board([0.9, 0.95, None, 0.8], [0.4, 0.5, 0.3, None])
    policy = SequenceBudget(0.52)
    verdict, spent = policy.step(guess, window, policy.init(canvas))
    assert verdict.accept.tolist() == [[True, True, False, True], [False, True, False, False]]
    torch.testing.assert_close(spent, torch.tensor([0.35, 0.0]))  # the second row's slot is alone: an exact draw
    assert accepted(policy, (canvas, window, guess), spent) == [[0, 1], [1]]
    _, spent = policy.step(guess, window, spent)
    torch.testing.assert_close(spent, torch.tensor([0.5, 0.0]))
    verdict, last = policy.step(guess, window, spent)
    assert not verdict.accept[0].any() and torch.equal(last, spent)


@settings(max_examples=20)
@given(joints(least=2, most=3), st.floats(0, 1.5))
def test_the_law_of_the_loop_is_within_the_budget(drawn, delta: float) -> None:
    batch, _ = drawn
    for joint in batch[:2]:
        law, paid, most = law_of(joint, ErrorBudget(delta))
        assert law.sum().item() == pytest.approx(1, abs=1e-5)
        assert most <= delta + 1e-6
        assert theory.total_variation(joint, law) <= (joint.flatten() * paid).sum() + 1e-5  # T5
        law, paid, _ = law_of(joint, SequenceBudget(delta))
        assert (paid <= delta + 1e-5).all()
        assert theory.total_variation(joint, law) <= delta + 1e-5


@settings(max_examples=10)
@given(joints(least=2, most=3))
def test_no_budget_samples_the_joint_exactly(drawn) -> None:
    batch, _ = drawn
    for policy in (ErrorBudget(0.0), SequenceBudget(0.0)):
        for scheduler in (Whole(), Blocks(2)):
            law, _, _ = law_of(batch[0], policy, scheduler)
            torch.testing.assert_close(law, batch[0], atol=1e-5, rtol=0)


@settings(max_examples=15)
@given(joints(least=2, most=3), st.floats(0, 2))
def test_the_entropy_bound_bounds_the_divergence_of_the_loop(drawn, gamma: float) -> None:
    batch, _ = drawn
    for joint in batch[:2]:
        law, paid, most = law_of(joint, EntropyBound(gamma), price=lambda g, c: theory.entropy_bound(g[Entropy()], c))
        assert most <= gamma + 1e-5
        assert theory.kl_divergence(joint, law) <= (joint.flatten() * paid).sum() + 1e-4


def test_the_bound_has_teeth() -> None:
    """Positions that always agree: a threshold draws them apart, beyond what a budget of 0.05 would allow."""
    joint = theory.correlated_joint(torch.tensor([0.9, 0.1]), 3)
    loose, _, _ = law_of(joint, Threshold(0.0))
    tight, _, _ = law_of(joint, SequenceBudget(0.05))
    half, paid, _ = law_of(joint, SequenceBudget(0.21))
    assert theory.total_variation(joint, loose) > 0.2
    assert theory.total_variation(joint, tight) < 1e-6
    assert 0.1 < theory.total_variation(joint, half) <= 0.21 and paid.max() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("delta", [-0.1, float("inf"), float("nan")])
def test_impossible_budgets(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        ErrorBudget(delta)
    with pytest.raises(ConfigError, match="SequenceBudget"):
        SequenceBudget(delta)
