"""The theorems as laws over explicit joints: each example is a batch of 32 tables of one kind, in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import one_hot, pad

from dllm import theory
from dllm.errors import ConfigError

torch.set_num_threads(1)
law = settings(derandomize=True, database=None, deadline=None, max_examples=40)
BATCH, TINY = 32, 1e-12


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def dirichlet(rng, *shape):
    """Random laws over the last axis, from flat to spiky."""
    sharpness = 4 * torch.rand(*shape[:-1], 1, generator=rng, dtype=torch.float64)
    weights = (-torch.rand(shape, generator=rng, dtype=torch.float64).clamp(min=1e-12).log()) ** sharpness
    return weights / weights.sum(-1, keepdim=True)


def random_marginals(rng, n, v):
    """Marginals (BATCH, n, v), from uncertain to nearly sure."""
    keep = torch.rand(BATCH, 1, 1, generator=rng, dtype=torch.float64) ** 3
    mode = one_hot(torch.randint(v, (BATCH, n), generator=rng), v)
    return keep * dirichlet(rng, BATCH, n, v) + (1 - keep) * mode


def with_atom(rng, n, v):
    keep = torch.rand(BATCH, 1, generator=rng, dtype=torch.float64) ** 2
    atom = one_hot(torch.randint(v**n, (BATCH,), generator=rng), v**n)
    return (keep * dirichlet(rng, BATCH, v**n) + (1 - keep) * atom).unflatten(-1, (v,) * n)


KINDS = {
    "atom": with_atom,
    "correlated": lambda rng, n, v: torch.stack([theory.correlated_joint(w, n) for w in dirichlet(rng, BATCH, v)]),
    "star": lambda rng, n, v: torch.stack([theory.star_joint(m) for m in random_marginals(rng, n, v)]),
    "xor": lambda rng, n, v: 0.9 * with_atom(rng, n, v) + 0.1 * theory.xor_joint(n, v),
    "independent": lambda rng, n, v: theory.product_joint(random_marginals(rng, n, v)),
}


@st.composite
def joints(draw, least=1, most=5):
    """A batch of joints (BATCH, v^n) and n."""
    n, v = draw(st.integers(least, most)), draw(st.integers(2, 4))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return KINDS[draw(st.sampled_from(sorted(KINDS)))](rng, n, v), n


def look(joint, n):
    """What one forward shows: marginals, greedy candidates, p1, p2, and everything accepted."""
    m = theory.marginals(joint, n)
    p1, p2 = m.topk(2).values.unbind(-1)
    return m, m.argmax(-1), p1, p2, torch.ones_like(p1, dtype=torch.bool)


def only_mode(joint, n, tokens):
    """Is `tokens` the one and only mode of each joint?"""
    first, second = joint.flatten(-n).topk(2).values.unbind(-1)
    return (theory.argmax_joint(joint, n) == tokens).all(-1) & (first > second)


@pytest.mark.parametrize("test", ["theorem 1", "profile", "exact"])
@law
@given(joints())
def test_a_certificate_means_the_only_mode_of_joint_and_product(test, drawn):
    joint, n = drawn
    m, greedy, p1, p2, every = look(joint, n)
    holds = {
        "theorem 1": theory.theorem1_holds(p1, every),
        "profile": theory.is_certified(p1, 1 - p1, every),
        "exact": theory.is_certified(p1, p2, every),
    }[test]
    assert only_mode(joint, n, greedy)[holds].all()
    assert only_mode(theory.product_joint(m), n, greedy)[holds].all()


@law
@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 2**31))
def test_the_exact_form_cannot_be_improved(n, v, seed):
    """Whatever it refuses, the star joint shows to be refused rightly."""
    m = random_marginals(torch.Generator().manual_seed(seed), n, v)
    star = torch.stack([theory.star_joint(rows) for rows in m])
    _, _, p1, p2, every = look(star, n)
    errors, rival = (1 - p1).sum(-1), p2.amax(-1)
    torch.testing.assert_close(theory.marginals(star, n), m, atol=TINY, rtol=0)
    assert (star >= 0).all()
    greedy = m.argmax(-1)
    own = star[torch.arange(BATCH), *greedy.unbind(-1)]
    torch.testing.assert_close(own, (1 - errors).clamp(min=0), atol=TINY, rtol=0)
    decided = (errors + rival - 1).abs() > 1e-9
    wins = only_mode(star, n, greedy)
    assert torch.equal(wins[decided], (errors + rival < 1)[decided])
    assert torch.equal(theory.is_certified(p1, p2, every)[decided], wins[decided])
    assert (own < star.flatten(-n).amax(-1))[decided & ~wins].all()


def test_the_star_of_marginals_that_are_sure_of_nothing():
    """Deficits that wrap around the circle more than once, equal tokens, one token, one position."""
    for rows in (torch.full((5, 4), 0.25), torch.ones(3, 1), torch.tensor([[0.25, 0.75]]), torch.eye(3)):
        star = theory.star_joint(rows.double())
        torch.testing.assert_close(theory.marginals(star), rows.double(), atol=TINY, rtol=0)
    assert theory.star_joint(torch.full((5, 4), 0.25))[0, 0, 0, 0, 0] == 0


@law
@given(joints(), st.integers(0, 2**31))
def test_theorem1_within_profile_within_exact(drawn, seed):
    joint, n = drawn
    _, _, p1, p2, every = look(joint, n)
    accepted = torch.rand(every.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    inner, middle, outer = (
        theory.theorem1_holds(p1, accepted),
        theory.is_certified(p1, 1 - p1, accepted),
        theory.is_certified(p1, p2, accepted),
    )
    assert (inner <= middle).all() and (middle <= outer).all()
    edge = 1 / (accepted.sum(-1) + 1)
    deficit = torch.where(accepted, 1 - p1, 0).amax(-1)
    clear = (deficit - edge).abs() > 1e-9
    assert torch.equal(inner[clear], (deficit < edge)[clear])
    if joint.shape[-1] == 2:
        assert torch.equal(middle, outer)


def test_the_inclusions_are_strict_and_the_certificates_not_vacuous():
    p1 = f64([[0.8, 0.99, 0.99], [0.6, 0.9, 0.9], [0.6, 0.6, 0.6]])
    p2 = f64([[0.15, 0.01, 0.01], [0.3, 0.1, 0.1], [0.3, 0.1, 0.1]])
    every = torch.ones(3, 3, dtype=torch.bool)
    assert theory.theorem1_holds(p1, every).tolist() == [True, False, False]
    assert theory.is_certified(p1, 1 - p1, every).tolist() == [True, False, False]
    assert theory.is_certified(p1, p2, every).tolist() == [True, True, False]
    uneven = f64([0.7, 0.99, 0.99])
    assert not theory.theorem1_holds(uneven, every[0]) and theory.is_certified(uneven, 1 - uneven, every[0])


def test_small_sets_and_what_is_not_accepted():
    nan = math.nan
    p1, p2 = torch.tensor([[0.4, nan], [0.4, nan], [nan, nan]]), torch.tensor([[0.3, nan], [0.4, nan], [nan, nan]])
    accepted = torch.tensor([[True, False], [True, False], [False, False]])
    assert theory.is_certified(p1, p2, accepted).tolist() == [True, False, True]  # one position: p2 < c, whatever c is
    assert theory.theorem1_holds(p1, accepted).tolist() == [False, False, True]
    assert theory.tv_bound(p1, accepted).tolist() == pytest.approx([0.6, 0.6, 0])
    assert theory.entropy_bound(p1, accepted).tolist() == pytest.approx([0, 0, 0])
    sampled, mode = torch.tensor([0.3]), torch.tensor([0.5])  # a candidate that is not the mode
    assert not theory.is_certified(sampled, mode, torch.tensor([True]))


@law
@given(joints(least=2))
def test_what_is_certified_greedy_finds_in_every_order(drawn):
    """From every subset of x*, every other position prefers x*: so does each order of deciding one by one."""
    joint, n = drawn
    _, greedy, p1, p2, every = look(joint, n)
    subsets = torch.tensor(list(itertools.product([False, True], repeat=n)))
    for i in theory.is_certified(p1, p2, every).nonzero().flatten().tolist()[:6]:
        given_some = theory.condition_joint(joint[i], greedy[i].expand(2**n, n), subsets)
        assert (theory.marginals(given_some, n).argmax(-1) == greedy[i]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_never_certifies_a_tie(dtype):
    """Fractions for which the left side is exactly 1, rounded: refused; a thousandth below 1: certified."""
    rng = torch.Generator().manual_seed(0)
    for n in range(1, 33):
        every = torch.ones(200, n, dtype=torch.bool)
        parts = torch.randint(1, 1000, (200, n), generator=rng)
        rivals = (parts * torch.rand(200, n, generator=rng)).long()
        for spare, answer in ((1.0, False), (1.002, True)):
            whole = (parts.sum(-1) + rivals.amax(-1)).double().unsqueeze(-1) * spare
            assert (
                theory.is_certified((1 - parts / whole).to(dtype), (rivals / whole).to(dtype), every) == answer
            ).all()
            whole = (n + 1) * parts.amax(-1, keepdim=True).double() * spare
            assert (theory.theorem1_holds((1 - parts / whole).to(dtype), every) == answer).all()


@pytest.mark.parametrize("n", [1, 4, 32])
def test_the_margin_is_as_wide_as_documented(n):
    slack = theory.ULPS * torch.finfo(torch.float64).eps
    for short, answer in ((n + 0.5, False), (n + 1.5, True)):
        error = torch.full((n,), (1 - short * slack) / (n + 1), dtype=torch.float64)
        every = torch.ones(n, dtype=torch.bool)
        assert theory.theorem1_holds(1 - error, every) == answer
        assert theory.is_certified(1 - error, error, every) == answer
        assert theory.certified_prefix(1 - error, error)[-1] == answer


def test_the_margin_covers_what_float32_does_to_a_softmax():
    rng = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(64, 5000, generator=rng) + 40 * torch.randn(64, 1, generator=rng)
    single = (logits - logits.logsumexp(-1, keepdim=True)).exp().double()
    wrong = (single - logits.double().softmax(-1)).abs().max()
    assert wrong < theory.ULPS * torch.finfo(torch.float32).eps
    assert theory.ULPS * torch.finfo(torch.float32).eps * 33 < 1e-3  # a block of 32 loses nothing that matters


@law
@given(joints())
def test_the_certified_prefix_is_the_certificate_of_every_prefix(drawn):
    joint, n = drawn
    _, _, p1, p2, _ = look(joint, n)
    order = p1.argsort(-1, descending=True)
    p1, p2 = p1.gather(-1, order), p2.gather(-1, order)
    prefix = theory.certified_prefix(p1, p2)
    for m in range(1, n + 1):
        accepted = (torch.arange(n) < m).expand(BATCH, n)
        assert torch.equal(prefix[:, m - 1], theory.is_certified(p1, p2, accepted))
        assert (theory.theorem1_holds(p1, accepted) <= prefix[:, m - 1]).all()
    assert torch.equal(prefix, prefix.cummin(-1).values)
    padded = theory.certified_prefix(pad(p1, (0, 1), value=-math.inf), pad(p2, (0, 1)))
    assert torch.equal(padded, pad(prefix, (0, 1)))


@pytest.mark.parametrize("n", range(2, 6))
@pytest.mark.parametrize("over", [1e-9, 1e-3, 0.05, 0.5, 1.0])
def test_theorem1_is_tight_from_two_positions_on(n, over):
    eps = min(1 / (n + 1) + over, 1.0)
    joint = theory.tight_counterexample(n, eps)
    m, greedy, *_ = look(joint, n)
    assert joint.sum().item() == pytest.approx(1) and (joint >= 0).all()
    assert (m[:, 0] > 1 - eps).all() and (greedy == 0).all()
    assert theory.argmax_joint(joint).sum() == 1 and joint.max() > joint.flatten()[0]
    assert theory.argmax_joint(theory.product_joint(m)).sum() == 0


def test_theorem1_is_vacuous_for_one_position():
    with pytest.raises(ConfigError, match=r"n=1.*at least 2"):
        theory.tight_counterexample(1, 0.9)
    with pytest.raises(ConfigError, match=r"eps=0.25.*\(1/4, 1\]"):
        theory.tight_counterexample(3, 0.25)
    with pytest.raises(ConfigError, match=r"eps=1.1"):
        theory.tight_counterexample(3, 1.1)
    with pytest.raises(ConfigError, match="sum to one"):
        theory.star_joint(torch.tensor([[0.5, 0.4]]))


@law
@given(joints())
def test_total_variation_and_lp_bounds(drawn):
    joint, n = drawn
    m, _, p1, _, every = look(joint, n)
    other = theory.product_joint(m)
    eps = (1 - p1).amax(-1) + 1e-9
    distance, ours = theory.total_variation(joint, other, n), theory.tv_bound(p1, every)
    assert (distance <= ours + TINY).all()
    assert (ours < n * eps).all() and (ours <= theory.paper_tv_bound(eps, n)).all()
    if n == 1:
        assert (distance <= TINY).all()
    for p in (1.0, 1.5, 2.0, 7.0):
        gap = (joint - other).flatten(-n).abs().pow(p).sum(-1) ** (1 / p)
        assert (gap < theory.lp_bound(eps, n, p)).all()
    torch.testing.assert_close(theory.lp_bound(eps, n, 1) / 2, theory.paper_tv_bound(eps, n))


def test_the_total_variation_bound_is_asymptotically_tight():
    for n in range(2, 6):
        joint = theory.correlated_joint(f64([0.999, 0.001]), n)
        m, _, p1, _, every = look(joint, n)
        distance = theory.total_variation(joint, theory.product_joint(m))
        assert distance.item() == pytest.approx(1 - 0.999**n - 0.001**n)
        assert 0.99 < distance / theory.tv_bound(p1, every) <= 1


@law
@given(joints())
def test_kl_bounds(drawn):
    joint, n = drawn
    m, _, p1, _, every = look(joint, n)
    lost = theory.kl_divergence(joint, theory.product_joint(m), n)
    torch.testing.assert_close(lost, theory.total_correlation(joint, n), atol=1e-9, rtol=0)
    mid, outer = (
        theory.entropy_bound(theory.entropy(m), every),
        theory.paper_kl_bound((1 - p1).amax(-1) + 1e-9, n, joint.shape[-1]),
    )
    assert (lost <= mid + 1e-9).all() and (mid <= outer + 1e-9).all()
    assert (theory.total_variation(joint, theory.product_joint(m), n) <= (mid / 2).clamp(min=0).sqrt() + 1e-6).all()


def test_the_papers_kl_bound_ends_where_fano_turns():
    """As printed it would promise 0.56 nats for bits that share 0.69; in its range it is as printed."""
    agree = theory.correlated_joint(torch.tensor([0.5, 0.5]), 2)
    eps = f64([0.1, 0.3, 0.99])
    printed = -(eps * eps.log() + (1 - eps) * (1 - eps).log())
    assert printed[2] < theory.total_correlation(agree) <= theory.paper_kl_bound(eps, 2, 2)[2] + TINY
    torch.testing.assert_close(theory.paper_kl_bound(eps, 3, 4)[:2], 2 * (printed + eps * math.log(3))[:2])
    with pytest.raises(ConfigError, match="vocabulary=1"):
        theory.paper_kl_bound(eps, 2, 1)
    with pytest.raises(ConfigError, match=r"p=0\.5"):
        theory.lp_bound(eps, 2, 0.5)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 2.0])
@settings(law, max_examples=10)
@given(joints(least=2, most=3))
def test_the_price_of_a_whole_decode_is_the_sum_of_its_steps(threshold, drawn):
    """Sampling in parallel what is above a threshold, the most confident always: TV and KL add up over the steps.

    One position a step, in an order that adapts to the context, samples the joint exactly.
    """
    batch, n = drawn
    for joint in batch[:4]:
        v = joint.shape[-1]
        texts = torch.tensor(list(itertools.product(range(v), repeat=n)))
        known = torch.zeros_like(texts, dtype=torch.bool)
        reached = torch.ones(v**n, dtype=torch.float64)
        variation, divergence = torch.zeros(2, v**n, dtype=torch.float64)
        while not known.all():
            m = theory.marginals(theory.condition_joint(joint, texts, known), n)
            confidence = m.amax(-1)
            best = torch.where(known, -1, confidence).argmax(-1, keepdim=True) == torch.arange(n)
            write = ~known & ((confidence >= threshold) | best)
            reached *= torch.where(write, m.gather(-1, texts.unsqueeze(-1)).squeeze(-1), 1).prod(-1)
            variation += torch.where(write, 1 - confidence, 0).sum(-1)
            divergence += theory.entropy_bound(theory.entropy(m), write)
            known |= write
        sampler = reached.unflatten(0, (v,) * n)
        weight = joint.flatten()
        assert sampler.sum().item() == pytest.approx(1)
        assert theory.total_variation(joint, sampler) <= (weight * variation).sum() + TINY
        assert theory.kl_divergence(joint, sampler) <= (weight * divergence).sum() + 1e-9
        if threshold > 1:
            torch.testing.assert_close(sampler, joint, atol=1e-9, rtol=0)


def test_poker_hands():
    joint = theory.poker_hand_joint()
    _, greedy, p1, p2, every = look(joint, 2)
    assert [theory.POKER_WORDS[t] for t in greedy] == ["high", "pair"]
    assert joint[tuple(greedy)] == 0 and (p1 >= 0.4).all()  # a threshold of .4 writes what is no hand
    assert not theory.is_certified(p1, p2, every)
    assert theory.is_certified(p1[1:], p2[1:], every[1:])  # one word alone is fine
    first = theory.marginals(theory.condition_joint(joint, greedy, torch.tensor([False, True])))[0].argmax()
    assert joint[first, greedy[1]] > 0  # and the next step then names a hand


@law
@given(joints(least=2))
def test_a_threshold_writes_the_impossible_only_up_to_the_frechet_level(drawn):
    """n positions above 1 - 1/n always have a possible text; at 1 - 1/n, some joint makes it impossible."""
    joint, n = drawn
    _, greedy, p1, _, _ = look(joint, n)
    text = joint[torch.arange(BATCH), *greedy.unbind(-1)]
    assert (text[(p1 > 1 - 1 / n + 1e-9).all(-1)] > 0).all()
    level = f64([1 - 1 / n, 1 / n]).expand(n, 2)
    assert theory.star_joint(level).flatten()[0] < TINY


@law
@given(joints(most=3), st.integers(0, 2**31))
def test_conditionals_are_those_of_the_table(drawn, seed):
    joint, n = drawn[0][0], drawn[1]
    v, rng = joint.shape[0], torch.Generator().manual_seed(seed)
    tokens, known = torch.randint(v, (8, n), generator=rng), torch.rand(8, n, generator=rng) < 0.5
    batched = theory.condition_joint(joint, tokens.where(known, -7), known)
    for row, (some, seen) in enumerate(zip(tokens.tolist(), known.tolist(), strict=True)):
        choices = [[token] if s else range(v) for token, s in zip(some, seen, strict=True)]
        texts = list(itertools.product(*choices))
        weights = torch.tensor([joint[z].item() for z in texts], dtype=torch.float64)
        weights = weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(texts))
        expected = torch.zeros_like(joint)
        for z, w in zip(texts, weights, strict=True):
            expected[z] = w
        torch.testing.assert_close(batched[row], expected)
        torch.testing.assert_close(theory.condition_joint(joint, tokens[row], known[row]), expected)


def test_evidence_that_cannot_be():
    bits = theory.xor_joint(2)
    impossible = theory.condition_joint(bits, torch.tensor([0, 1]), torch.tensor([True, True]))
    assert impossible.tolist() == [[0, 1], [0, 0]]
    hands = theory.condition_joint(theory.poker_hand_joint(), torch.tensor([6, 0]), torch.tensor([True, False]))
    torch.testing.assert_close(theory.marginals(hands)[1], torch.full((7,), 1 / 7).double())
    with pytest.raises(ConfigError, match=r"\[2\].*0\.\.1"):
        theory.condition_joint(bits, torch.tensor([2, 0]), torch.tensor([True, False]))
    with pytest.raises(ConfigError, match=r"\(2, 3\)"):
        theory.marginals(torch.ones(2, 3))


def test_named_joints():
    for n, v in itertools.product(range(2, 5), range(2, 5)):
        parity = theory.xor_joint(n, v)
        assert theory.total_correlation(parity).item() == pytest.approx(math.log(v))
        torch.testing.assert_close(parity.sum(0), torch.full((v,) * (n - 1), v ** (1.0 - n)).double())
        weights = dirichlet(torch.Generator().manual_seed(n), v)
        agree = theory.correlated_joint(weights, n)
        torch.testing.assert_close(theory.total_correlation(agree), (n - 1) * theory.entropy(weights))
        assert (theory.argmax_joint(agree) == weights.argmax()).all()
    assert theory.argmax_joint(theory.xor_joint(3)).tolist() == [0, 0, 0]  # of equal texts the first


@law
@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**31))
def test_marginals_undo_product(n, v, seed):
    m = random_marginals(torch.Generator().manual_seed(seed), n, v)
    torch.testing.assert_close(theory.marginals(theory.product_joint(m), n), m)
    assert (theory.argmax_joint(theory.product_joint(m), n) == m.argmax(-1)).all()
    assert theory.total_correlation(theory.product_joint(m), n).abs().max() < 1e-9
    torch.testing.assert_close(theory.product_joint(m)[3], theory.product_joint(m[3]))
