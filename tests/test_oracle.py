"""Theorem 1 through the real loop: the tabular oracle knows the joint, so a promise can be checked token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dllm import (
    Blocks,
    DualCache,
    Factor,
    FactorAsPublished,
    LeftToRight,
    Margin,
    NegativeEntropy,
    NoCache,
    PrefixCache,
    Random,
    Request,
    Strategy,
    Threshold,
    TopK,
    Whole,
    theory,
)
from dllm.models.tabular import TabularModel
from dllm.policies import Score
from dllm.strategy import Sampling
from dllm.testing import laws
from dllm.types import BlockCausal, Step


@st.composite
def joints(draw: st.DrawFn) -> Tensor:
    """Joints of 2..4 positions over 2..3 words: peaked at an atom, fully correlated, XOR, independent."""
    n, v = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def dirichlet(size: int, power: float) -> Tensor:
        x = torch.rand(size, generator=generator, dtype=torch.float64).log().neg() ** power
        return x / x.sum()

    kind = draw(st.sampled_from(["atom", "correlated", "xor", "independent", "star"]))
    if kind == "correlated":
        return theory.correlated_joint(dirichlet(v, 1.0), n)
    if kind == "xor":
        return theory.xor_joint(n, v)
    if kind == "independent":
        return theory.product_joint(torch.stack([dirichlet(v, 3.0) for _ in range(n)]))
    if kind == "star":
        sharp = torch.stack([0.2 * dirichlet(v, 1.0) + 0.8 * torch.eye(v, dtype=torch.float64)[0] for _ in range(n)])
        return theory.star_joint(sharp)
    joint = dirichlet(v**n, 2.0).reshape((v,) * n)
    weight = draw(st.floats(0, 0.97))
    joint = joint * (1 - weight)
    joint[tuple(torch.randint(v, (n,), generator=generator).tolist())] += weight
    return joint


def decode(joint: Tensor, strategy: Strategy, **model: object) -> list[Step]:
    oracle = TabularModel(joint, offset=1, **model)  # type: ignore[arg-type]
    return laws.run_batch(oracle, [Request((0,), max_new_tokens=joint.dim())], strategy)[0]


def parallel_commits(stream: list[Step], n: int) -> list[tuple[Tensor, Tensor, Tensor, bool]]:
    """For every step that commits two or more: tokens and known before it, what it commits, and its certificate."""
    found = []
    tokens, known = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
    for step in stream:
        now = ~step.canvas.pending[0, 1 : 1 + n]
        committed = now & ~known
        after = step.canvas.tokens[0, 1 : 1 + n]
        if committed.sum() >= 2:
            certificate = bool(step.ledger.certified[0, 1 : 1 + n][committed].all())
            found.append((tokens, known, torch.where(committed, after, -1), certificate))
        tokens, known = torch.where(now, after, 0), now
    return found


def is_joint_mode(joint: Tensor, tokens: Tensor, known: Tensor, committed: Tensor) -> bool:
    """Whether what was committed is the most likely value of those positions together, given what was known."""
    n = joint.dim()
    given_known = theory.condition_joint(joint, tokens, known)
    others = [i for i in range(n) if committed[i] < 0]
    together = given_known.sum(others) if others else given_known
    chosen = together[tuple(committed[committed >= 0].tolist())]
    return bool(chosen >= together.max() - 1e-12)


@given(joints())
def test_factor_one_commits_the_joint_mode(joint: Tensor) -> None:
    for tokens, known, committed, _ in parallel_commits(
        decode(joint, Strategy(Factor(1.0), Whole(), NoCache())), joint.dim()
    ):
        assert is_joint_mode(joint, tokens, known, committed)


@given(joints(), st.sampled_from([Threshold(0.5), Threshold(0.0), Factor(2.5), FactorAsPublished(1.0)]))
def test_what_is_certified_is_the_joint_mode(joint: Tensor, policy: Threshold) -> None:
    for tokens, known, committed, certified in parallel_commits(
        decode(joint, Strategy(policy, Whole(), NoCache())), joint.dim()
    ):
        assert is_joint_mode(joint, tokens, known, committed) or not certified


@given(joints(), st.integers(1, 3))
def test_exact_with_caches_that_are_exact(joint: Tensor, size: int) -> None:
    """Block-causal attention: the prefix cache and the commit steps leave the promise as it is."""
    for shift in (0, 1):
        strategy = Strategy(Factor(1.0), Blocks(size, commit=True), PrefixCache())
        stream = decode(joint, strategy, geometry=BlockCausal(size), needs_left=shift)
        plain = decode(joint, Strategy(Factor(1.0), Blocks(size), NoCache()), geometry=BlockCausal(size), needs_left=0)
        if not shift:
            assert torch.equal(stream[-1].canvas.tokens, plain[-1].canvas.tokens)


def test_the_published_variant_breaks_the_theorem() -> None:
    """Two slots left, both unsure: the published code takes both, and writes what is not the joint's mode."""
    joint = torch.tensor([[0.35, 0.0], [0.33, 0.32]], dtype=torch.float64)
    ((tokens, known, committed, certified),) = parallel_commits(
        decode(joint, Strategy(FactorAsPublished(1.0), Whole(), NoCache())), 2
    )
    assert not is_joint_mode(joint, tokens, known, committed)
    assert not certified
    assert not parallel_commits(decode(joint, Strategy(Factor(1.0), Whole(), NoCache())), 2)


@given(st.integers(2, 4), st.floats(0.001, 0.05))
def test_the_tight_counterexample_is_refused(n: int, beyond: float) -> None:
    """Just past the theorem's bound a parallel commit would be wrong, and `Factor(1.0)` does not make it."""
    joint = theory.tight_counterexample(n, 1 / (n + 1) + beyond)
    all_at_once = decode(joint, Strategy(Threshold(0.0), Whole(), NoCache()))
    assert len(all_at_once) == 1
    answer = all_at_once[-1].canvas.tokens[0, 1:]
    assume(bool((answer == 0).all()))
    assert not torch.equal(answer, theory.argmax_joint(joint))
    assert not bool(all_at_once[-1].ledger.certified.any())
    first = decode(joint, Strategy(Factor(1.0), Whole(), NoCache()))[0]
    assert int(first.commit.sum()) < n


def test_a_stale_cache_cannot_certify() -> None:
    """Six sure positions two by two: without a cache all is certified, with a stale one the first two."""
    sure = torch.tensor([0.98, 0.02], dtype=torch.float64)
    joint = theory.product_joint(torch.stack([sure] * 6))
    policy = Threshold(0.9)
    fresh = decode(joint, Strategy(policy, Blocks(6, sub_block=2), NoCache()))[-1].ledger
    stale = decode(joint, Strategy(policy, Blocks(6, sub_block=2), DualCache()))[-1].ledger
    assert fresh.certified[0, 1:].tolist() == [True] * 6
    assert stale.parallel[0, 1:].tolist() == [True] * 6
    assert stale.certified[0, 1:].tolist() == [True] * 2 + [False] * 4


def goodness_of_fit(strategy: Strategy, rows: int = 4000) -> float:
    """Chi-squared statistic (7 degrees of freedom) of sampled answers against a joint of three binary positions."""
    generator = torch.Generator().manual_seed(0)
    joint = torch.rand(2, 2, 2, generator=generator, dtype=torch.float64)
    joint = joint / joint.sum()
    stream, _ = laws.run_batch(TabularModel(joint), [Request((0,), 3, seed=i) for i in range(rows)], strategy)
    answers = (stream[-1].canvas.tokens[:, 1:] * torch.tensor([4, 2, 1])).sum(1)
    expected = joint.flatten() * rows
    return float(((torch.bincount(answers, minlength=8) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("score", [LeftToRight(), NegativeEntropy(), Margin(), Random()], ids=str)
def test_sampling_one_by_one_reproduces_the_joint(score: Score) -> None:
    """Whatever order a score chooses, if it does not look at the draw (0.1 % level)."""
    strategy = Strategy(TopK(k=1, score=score), Whole(), NoCache(), Sampling(temperature=1.0))
    assert goodness_of_fit(strategy) < 24.3


def test_an_order_that_looks_at_the_draw_is_biased() -> None:
    """Committing the most confident *sampled* token, as published, prefers likely tokens: it is not exact sampling."""
    assert goodness_of_fit(Strategy(TopK(k=1), Whole(), NoCache(), Sampling(temperature=1.0))) > 100
