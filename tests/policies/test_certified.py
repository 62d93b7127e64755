"""The certificate as a rule: never fewer than factor, never wrong on a joint, never longer than can be."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm import Blocks, Certified, Factor, LeftToRight, NoCache, Request, Strategy, TopK, Whole, theory
from dllm.models.tabular import TabularModel
from dllm.policies.prefix_rule import rank_slots
from dllm.testing import laws
from tests.policies.board import accepted, board, committed
from tests.theory.test_theory import joints

law = settings(max_examples=40)
BREADTH = 2 * theory.ULPS * torch.finfo(torch.float32).eps
"""Within so much of 1, per term, float32 cannot tell on which side a certificate lies."""


def random_board(seed: int, b: int, k: int, sharp: float):
    """Random slots of four tokens, some decided; p1 and p2 as a forward shows them."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharp * torch.rand(b, k, 1, generator=rng) * torch.randn(b, k, 4, generator=rng)
    p = logits.softmax(-1).topk(2).values
    pending = torch.rand(b, k, generator=rng) < 0.8
    rows = torch.where(pending, p[..., 0], torch.nan).tolist()
    view = board(*[[None if c != c else c for c in row] for row in rows])
    return view[0], view[1], replace(view[2], p2=p[..., 1] * pending)


def test_by_hand() -> None:
    """Deficits 0.1 0.2 0.3: alone fine; 0.3 + 0.1 < 1; 0.6 + p2."""
    p2 = [[0.1, 0.1, 0.3]]
    view = board([0.9, 0.8, 0.7], p2=p2)
    assert accepted(Certified(), view) == [[0, 1, 2]]
    assert accepted(Factor(1.0), view) == [[0, 1]]  # 4 · 0.3 > 1
    assert accepted(Certified(), board([0.9, 0.8, 0.6], p2=[[0.1, 0.1, 0.4]])) == [[0, 1]]
    assert accepted(Certified(), board([0.4, 0.3], p2=[[0.3, 0.3]])) == [[0]]
    assert accepted(Certified(), board([0.4, 0.3], p2=[[0.4, 0.3]])) == [[]]
    assert committed(Certified(), board([0.3, 0.4], p2=[[0.3, 0.4]])) == [[1]]


def test_a_drawn_candidate_that_is_no_mode_ends_the_prefix() -> None:
    view = board([0.01, 0.97, 0.95], p1=[[0.99, 0.97, 0.95]], mode=[[1, 0, 0]], p2=[[0.01, 0.01, 0.01]])
    assert accepted(Certified(), view) == [[]]
    view = board([0.99, 0.01, 0.95], p1=[[0.99, 0.97, 0.95]], mode=[[0, 1, 0]], p2=[[0.01, 0.01, 0.01]])
    assert accepted(Certified(), view) == [[0]]


def test_equality_is_refused_on_both_sides_of_the_hairs_breadth() -> None:
    """e = 1/3 twice with p2 = 1/3 sums to 1: no certificate, nor a little below; a little more below there is one."""
    third = 1 / 3
    for below, want in ((0.0, [0]), (3e-6, [0]), (2e-5, [0, 1])):
        e = third - below
        assert accepted(Certified(), board([1 - e, 1 - e], p2=[[e, e]])) == [want]


@law
@given(st.integers(0, 2**31), st.integers(1, 24), st.floats(1, 30))
def test_never_fewer_than_factor(seed: int, k: int, sharp: float) -> None:
    _, window, guess = view = random_board(seed, 16, k, sharp)
    mine, _ = Certified().step(guess, window, None)
    ranked = rank_slots(guess.p1, window.pending)
    distance = ((ranked.number + 1) * (1 - ranked.sort(guess.p1)) - 1).abs()
    edge = (distance < (k + 1) * BREADTH) & ranked.candidate
    factor, _ = Factor(1.0).step(guess, window, None)
    assert not (factor.accept & ~mine.accept)[~edge.any(1)].any()
    less, _ = Factor(1.0 - (k + 1) * BREADTH).step(guess, window, None)
    assert not (less.accept & ~mine.accept).any()  # also on the edge
    assert accepted(Certified(), view) == [row.nonzero().flatten().tolist() for row in mine.accept]


@law
@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(1, 30))
def test_as_long_as_can_be(seed: int, k: int, sharp: float) -> None:
    """What is committed is certified; one slot more of the order would not be."""
    _, window, guess = random_board(seed, 16, k, sharp)
    verdict, _ = Certified().step(guess, window, None)
    assert theory.is_certified(guess.p1, guess.p2, verdict.accept).all()
    ranked = rank_slots(guess.p1, window.pending)
    more = (ranked.rank <= verdict.accept.sum(1, keepdim=True)) & window.pending
    longer = more.sum(1) > verdict.accept.sum(1)
    assert not theory.is_certified(guess.p1, guess.p2, more)[longer].any()


@law
@given(joints(least=2, most=4))
def test_guarantee_on_exact_joints_through_the_loop(drawn) -> None:
    """Whatever a step commits in parallel is the only mode of those columns given the canvas, and greedy's text."""
    batch, n = drawn
    for joint in batch[:3]:
        model = TabularModel(joint)
        request = [Request((0,), max_new_tokens=n)]
        stream, (result,) = laws.run_batch(model, request, Strategy(Certified(), Whole(), NoCache()))
        ledger = stream[-1].ledger
        assert torch.equal(ledger.parallel, ledger.certified)  # every parallel commit carries its certificate
        tokens, known = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
        for step in stream:
            columns = step.window.columns[0, step.commit[0]] - 1
            if len(columns) > 1:
                given_now = theory.condition_joint(joint, tokens, known)
                rest = tuple(i for i in range(n) if i not in columns.tolist())
                sub = given_now.sum(rest) if rest else given_now
                first, second = sub.flatten().topk(2).values
                assert first > second
                assert theory.argmax_joint(sub).tolist() == step.guess.tokens[0, step.commit[0]].tolist()
            tokens[columns] = step.guess.tokens[0, step.commit[0]]
            known[columns] = True
        if ledger.certified[0, 1:].all():
            assert theory.argmax_joint(joint).tolist() == list(result.output_ids)
            for policy, scheduler in ((TopK(k=1), Whole()), (TopK(k=1), Blocks(1))):
                _, (alone,) = laws.run_batch(model, request, Strategy(policy, scheduler, NoCache()))
                assert alone.output_ids == result.output_ids


def test_poker_hands_are_never_mixed() -> None:
    """Theorem 1's threshold of 0.4 would write "high pair"; the certificate writes a hand."""
    model = TabularModel(theory.poker_hand_joint())
    _, (result,) = laws.run_batch(model, [Request((0,), max_new_tokens=2)], Strategy(Certified(), Whole(), NoCache()))
    assert theory.poker_hand_joint()[tuple(result.output_ids)] > 0
    assert result.nfe == 2


def test_star_joints_show_that_no_rule_may_take_more() -> None:
    """Where the sum passes 1, marginals alone cannot tell: the star joint has another arg-max."""
    found = 0
    for e, n in itertools.product((0.2, 0.26, 0.3, 0.34), (2, 3)):
        m = torch.tensor([[1 - e, e]] * n, dtype=torch.float64)
        star = theory.star_joint(m)
        (got,) = accepted(Certified(), board([1 - e] * n, p2=[[e] * n]))
        assert (len(got) == n) == (n * e + e < 1)
        found += len(got) < n
        assert (theory.argmax_joint(star) == 0).all() == (len(got) == n)
    assert found


@pytest.mark.parametrize("seed", range(3))
def test_order_does_not_matter_to_soundness(seed: int) -> None:
    _, window, guess = random_board(seed, 16, 8, 20.0)
    verdict, _ = Certified(score=LeftToRight()).step(guess, window, None)
    assert theory.is_certified(guess.p1, guess.p2, verdict.accept).all() and (verdict.accept.sum(1) > 1).any()
