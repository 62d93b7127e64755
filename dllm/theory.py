"""Guarantees that marginals alone give about a joint: certificates, bounds, and small joints written out as tables.

`n` positions are committed together. `P` is their true joint given the canvas, `p_j` its marginals (all that one
forward shows), `Q = prod_j p_j` their product, `x*_j = argmax p_j` the greedy candidates. For position j:
`c_j = p_j(x*_j)` is its confidence, `e_j = 1 - c_j` its deficit, `p2_j` the largest probability of any other token.
Everything here needs a coherent joint; the conditionals of a trained network need not come from one.

Axes: `...` leading batch, `k` positions, `v` vocabulary, `n` the position axes of a joint. A joint is a table of shape
(..., v, v, ..., v), with one axis for each position; functions that also take an argument `n` read the last n axes as
positions (all of them if it is None). Constructors give float64.

References:
    [F] Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), Theorem 1 and its appendix.
    [E] Ben-Hamu et al. 2025, EB-Sampler (arXiv:2505.24857), eq. 8.
    [P] Kasa et al. 2026, Fast-dLLM++ (arXiv:2606.02955).
    Results without a mark are ours.
"""

from __future__ import annotations

import math

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dllm.errors import ConfigError

ULPS = 64
"""Each probability handed to a certificate may be off by `ULPS * finfo(dtype).eps`: 7.6e-6 in float32."""


def _rounding_slack(probability: Float[Tensor, "..."]) -> float:
    """Compute by how much a probability of this dtype may be off."""
    return ULPS * torch.finfo(probability.dtype).eps


# Certificates: True means that the greedy candidates are the one and only mode of every joint with these marginals.


def theorem1_holds(confidence: Float[Tensor, "... k"], accepted: Bool[Tensor, "... k"]) -> Bool[Tensor, "..."]:
    """Check Theorem 1 [F]: if some eps has every e_j < eps and (n+1) eps <= 1, then argmax P = argmax Q = x*, uniquely.

    Such an eps exists exactly when (n+1) max_j e_j < 1, which is the factor rule with f = 1 and a strict inequality.
    Proof: P(x*) >= 1 - sum_j e_j > 1 - n eps >= eps, and any other z differs somewhere, so P(z) <= max_j e_j < eps.

    Args:
        confidence: Confidence c of each position.
        accepted: Positions that are committed together.

    Returns:
        Whether the theorem applies; True where nothing is accepted. Rounding is assumed to be unfavourable, as in
        `is_certified`.
    """
    deficit = torch.where(accepted, 1 - confidence, 0).clamp(min=0).amax(-1)
    return (accepted.sum(-1) + 1) * (deficit + _rounding_slack(confidence)) < 1


def is_certified(
    p1: Float[Tensor, "... k"], p2: Float[Tensor, "... k"], accepted: Bool[Tensor, "... k"]
) -> Bool[Tensor, "..."]:
    """Check the exact condition: argmax P = x*, uniquely, for every joint with these marginals.

    That is so if and only if sum_j e_j + max_j p2_j < 1.

    Sufficient: P(x*) >= 1 - sum_j e_j, and any other z differs at some j, so P(z) <= p_j(z_j) <= p2_j. Then greedy
    decoding of one position at a time ends at x* in every order too:
    P(x*_S, x*_j) >= 1 - sum_{S+j} e > p2_j >= P(x*_S, z_j).

    Necessary: where the sum is 1 or more, `star_joint` has these marginals and x* is not its only mode.

    One position needs p2 < c; for none the condition is True. With 1 - c in place of p2 it is the Frechet profile of
    [P], which contains Theorem 1; for v = 2 both are the same.

    Rounding: inputs may each be wrong by `ULPS` machine epsilons of their dtype, and (n+1) of them enter; that sum is
    added to the left side before comparing. So nothing is certified whose true value is >= 1, at the price of refusing
    what lies within (n+1) * 1.6e-5 of it in float32. In bfloat16 the margin leaves nothing to certify: convert the
    logits.

    Args:
        p1: Probability of the candidate.
        p2: Largest probability of any other token, so that a sampled candidate that is not the mode is never certified.
        accepted: Positions that are committed together. The others may hold anything.
    """
    slack = _rounding_slack(p1)
    deficit = torch.where(accepted, torch.rsub(p1, 1 + slack), 0).sum(-1)
    rival = torch.where(accepted, p2, 0).amax(-1)
    return deficit + rival < 1 - slack


def certified_prefix(p1: Float[Tensor, "... k"], p2: Float[Tensor, "... k"]) -> Bool[Tensor, "... k"]:
    """Check for every m whether the first m positions are certified together (`is_certified`).

    Once False along k it stays False. Sort by descending p1 first. The result is the longest certified prefix, not
    always the largest certified subset: a position with a large p2 makes the condition harder for all.

    Args:
        p1: As in `is_certified`; -inf as padding.
        p2: As in `is_certified`.

    Returns:
        Entry m - 1 is for the positions 0..m-1.
    """
    deficit = (1 - p1).clamp(min=0).cumsum(-1)
    terms = torch.arange(2, p1.shape[-1] + 2, device=p1.device)
    return deficit + p2.cummax(-1).values + terms * _rounding_slack(p1) < 1


# Bounds on the price of sampling all positions from Q at once. `eps` (...) must exceed every e_j; n >= 1 positions.


def tv_bound(confidence: Float[Tensor, "... k"], accepted: Bool[Tensor, "... k"]) -> Float[Tensor, "..."]:
    """Bound the total variation: TV(P, Q) <= sum_j e_j < n eps, which is below the bound of [F] whenever n > 1.

    Proof: TV = 1 - sum_z min(P, Q) <= 1 - min(P(x*), Q(x*)), and both are at least 1 - sum_j e_j. It holds for any x*.
    It is asymptotically tight: `correlated_joint` with weights (1 - eps, eps) has TV = 1 - (1-eps)^n - eps^n, about
    n eps. Summed over the steps of a whole decode, and averaged over P, it bounds the distance of the decoder's law
    from P.

    Args:
        confidence: Confidence of each position.
        accepted: Positions that are sampled at once.

    Returns:
        The bound, at most 1.
    """
    return torch.where(accepted, 1 - confidence, 0).clamp(min=0).sum(-1).clamp(max=1)


def paper_tv_bound(eps: Float[Tensor, "..."], n: int | Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Compute the bound of [F] on the total variation: TV(P, Q) < (3n - 1)/2 eps.

    It is meant for n > 1; with n = 1 both are the same law, and TV = 0.
    """
    return (3 * n - 1) / 2 * eps


def lp_bound(eps: Float[Tensor, "..."], n: int | Int[Tensor, "..."], p: float) -> Float[Tensor, "..."]:
    """Compute the bound of [F] on the p-norm: (sum_z |P - Q|^p)^(1/p) < ((n-1)^p + 2n)^(1/p) eps for n > 1.

    Proof: P(x*) and Q(x*) both lie in [1 - sum e, 1 - max e], so they differ by less than (n-1) eps; every other
    |P - Q| < eps, and those add up to less than 2 n eps.

    Args:
        eps: A number above every deficit.
        n: Number of positions.
        p: The norm, finite and at least 1.

    Raises:
        ConfigError: p is something else.
    """
    if not 1 <= p < math.inf:
        raise ConfigError(f"lp_bound(p={p}): p must be finite and at least 1; p=1 is twice the total variation")
    return ((n - 1) ** p + 2 * n) ** (1 / p) * eps


def paper_kl_bound(eps: Float[Tensor, "..."], n: int | Int[Tensor, "..."], vocabulary: int) -> Float[Tensor, "..."]:
    """Compute the bound of [F] in nats: KL(P || Q) < (n-1) (H_b(eps) + eps ln(v-1)).

    Proof: the chain rule, I(X_j; X_<j) <= H(X_j), and Fano: H(X_j) <= H_b(e_j) + e_j ln(v-1).

    Args:
        eps: A number above every deficit.
        n: Number of positions.
        vocabulary: Number v of tokens, at least 2.

    Raises:
        ConfigError: The vocabulary is smaller.

    Departures:
        Fano's bound grows only up to eps = 1 - 1/v (where it is ln v) and then falls, so that past it the paper's
        expression is no bound (an example are two equally likely bits that always agree, with eps near 1). It is held
        at ln v from there on.
    """
    if vocabulary < 2:
        raise ConfigError(f"paper_kl_bound(vocabulary={vocabulary}): needs at least 2 tokens; with 1 the KL is 0")
    eps = eps.clamp(max=1 - 1 / vocabulary)
    return (n - 1) * (entropy(torch.stack([eps, 1 - eps], -1)) + eps * math.log(vocabulary - 1))


def entropy_bound(entropies: Float[Tensor, "... k"], accepted: Bool[Tensor, "... k"]) -> Float[Tensor, "..."]:
    """Bound KL(P || Q) in nats by the entropies of the marginals [E]; never above `paper_kl_bound`.

    KL(P || Q) = sum_j H_j - H(X) <= sum_j H_j - max_j H_j, because H(X) >= H_j. By Pinsker TV <= sqrt(KL / 2).

    Args:
        entropies: Entropy of each position, in nats.
        accepted: Positions that are sampled at once.
    """
    kept = torch.where(accepted, entropies, 0)
    return kept.sum(-1) - kept.amax(-1)


# Tables: the facts of an explicit joint.


def _flatten_joint(joint: Float[Tensor, "..."], n: int | None) -> tuple[Float[Tensor, "..."], int, int]:
    """Flatten the position axes of a joint to one axis of v^n; return it with n and v.

    Raises:
        ConfigError: These axes differ in size, or there are not so many.
    """
    n = joint.dim() if n is None else n
    sizes = joint.shape[joint.dim() - n :]
    if not 1 <= n <= joint.dim() or len(set(sizes)) != 1:
        raise ConfigError(f"joint of shape {tuple(joint.shape)}: needs n={n} trailing axes, at least 1, of equal size")
    return joint.flatten(-n), n, sizes[0]


def marginals(joint: Float[Tensor, "..."], n: int | None = None) -> Float[Tensor, "... n v"]:
    """Compute the marginals of a joint."""
    flat, n, v = _flatten_joint(joint, n)
    tables = [reduce(flat, "... (a v b) -> ... v", "sum", a=v**j, v=v) for j in range(n)]
    return torch.stack(tables, -2)


def product_joint(marginals: Float[Tensor, "... n v"]) -> Float[Tensor, "..."]:
    """Build the independent joint with the given marginals."""
    n, v = marginals.shape[-2:]
    flat = marginals[..., 0, :]
    for j in range(1, n):
        flat = rearrange(einsum(flat, marginals[..., j, :], "... a, ... b -> ... a b"), "... a b -> ... (a b)")
    return flat.reshape(*flat.shape[:-1], *[v] * n)


def condition_joint(
    joint: Float[Tensor, "..."], tokens: Int[Tensor, "... n"], known: Bool[Tensor, "... n"]
) -> Float[Tensor, "..."]:
    """Condition a joint on what is known: the result is zero wherever it contradicts the evidence, and sums to one.

    Evidence of probability zero (an incoherent canvas, which product decoding can write) leads to the uniform law over
    all that agrees with the evidence, so that an oracle always has an answer. The `marginals` of the result are one-hot
    where known, and the exact conditionals elsewhere.

    Args:
        joint: The joint, all of whose axes are positions.
        tokens: Tokens of the positions that are known, anything elsewhere.
        known: Positions that are known.

    Returns:
        One table for each leading index of the evidence.

    Raises:
        ConfigError: A known token lies outside the table's vocabulary.
    """
    _, n, v = _flatten_joint(joint, None)
    agrees = tokens.unsqueeze(-1) == torch.arange(v, device=tokens.device)
    if not (agrees.any(-1) | ~known).all():
        culprits = tokens[known & ~agrees.any(-1)].tolist()
        raise ConfigError(f"condition: known tokens {culprits} lie outside the table's vocabulary 0..{v - 1}")
    evidence = product_joint((agrees | ~known.unsqueeze(-1)).to(joint.dtype))
    axes = tuple(range(-n, 0))
    kept = joint * evidence
    kept = torch.where(kept.sum(axes, keepdim=True) > 0, kept, evidence)
    return kept / kept.sum(axes, keepdim=True)


def argmax_joint(joint: Float[Tensor, "..."], n: int | None = None) -> Int[Tensor, "... n"]:
    """Find the most probable tokens of a joint; of equal ones the first in dictionary order."""
    flat, n, v = _flatten_joint(joint, n)
    return torch.stack(torch.unravel_index(flat.argmax(-1), (v,) * n), -1)


def entropy(probabilities: Float[Tensor, "... v"]) -> Float[Tensor, "..."]:
    """Compute the entropy in nats over the last axis."""
    entropies: Tensor = torch.special.entr(probabilities)
    return entropies.sum(-1)


def total_variation(
    left: Float[Tensor, "..."], right: Float[Tensor, "..."], n: int | None = None
) -> Float[Tensor, "..."]:
    """Compute half the summed difference of two joints: the largest gap in the probability of any event."""
    return (_flatten_joint(left, n)[0] - _flatten_joint(right, n)[0]).abs().sum(-1) / 2


def kl_divergence(
    left: Float[Tensor, "..."], right: Float[Tensor, "..."], n: int | None = None
) -> Float[Tensor, "..."]:
    """Compute KL(left || right) of two joints in nats; infinite where `right` excludes what `left` allows.

    With n = 1 they are plain distributions over the last axis.
    """
    p, q = _flatten_joint(left, n)[0], _flatten_joint(right, n)[0]
    terms: Tensor = torch.special.xlogy(p, p) - torch.special.xlogy(p, q)
    return terms.sum(-1)


def total_correlation(joint: Float[Tensor, "..."], n: int | None = None) -> Float[Tensor, "..."]:
    """Compute sum_j H_j - H(X) in nats, which is KL(P || Q): the loss of drawing all positions at once."""
    return entropy(marginals(joint, n)).sum(-1) - entropy(_flatten_joint(joint, n)[0])


# Joints that make a point. The independent one is `product_joint`.


def star_joint(marginals: Float[Tensor, "n v"]) -> Float[Tensor, "..."]:
    """Build a joint with the given marginals in which the greedy candidates are as improbable as marginals allow.

    P(x*) = max(0, 1 - sum_j e_j), the lower bound of Frechet, and every other token keeps its whole mass on one point
    while sum_j e_j <= 1. Hence x* is its only mode if and only if sum_j e_j + max_j p2_j < 1: the converse of
    `is_certified`.

    Construction: one uniform number on a circle of length 1 decides all positions. Position j errs on an arc of length
    e_j, cut into one piece for each other token; the arcs are laid end to end. While they fit once around, no two
    positions err together and the mass forms a star around x*; once they cover the circle, some position always errs.

    Args:
        marginals: Rows that sum to one.

    Returns:
        A table with n axes of size v, in the dtype of the marginals.

    Raises:
        ConfigError: The rows are no probabilities.
    """
    if marginals.dim() != 2 or (marginals < 0).any() or ((marginals.sum(-1) - 1).abs() > 1e-5).any():
        raise ConfigError(f"star_joint: needs (n, v) rows of probabilities that sum to one, got {marginals.tolist()}")
    n, v = marginals.shape
    order = marginals.argsort(dim=-1, descending=True, stable=True).flip(-1)  # the candidate last
    ends = marginals.gather(-1, order).cumsum(-1)
    arc = ends[:, -2] if v > 1 else torch.zeros_like(ends[:, 0])
    start = (arc.cumsum(0) - arc).unsqueeze(-1)
    cuts = torch.cat([(start + ends).flatten() % 1, ends.new_tensor([0.0, 1.0])]).sort().values
    widths = cuts.diff()
    place = (cuts[:-1] + widths / 2 - start) % 1  # (n, pieces): where each position finds a piece on its own circle
    token = order.gather(-1, torch.searchsorted(ends, place, right=True).clamp(max=v - 1))
    return marginals.new_zeros((v,) * n).index_put(tuple(token), widths, accumulate=True)


def tight_counterexample(n: int, eps: float) -> Float64[Tensor, "..."]:
    """Build bits with every p_j(0) > 1 - eps whose joint prefers one 1 over all zeros: Theorem 1 is tight [F].

    With eta = (eps - 1/(n+1)) / (n+1): P(0..0) = 1/(n+1) - eta, and 1/(n+1) + eta/n on each of the n unit vectors.

    Args:
        n: Number of positions, at least 2: one position is its own marginal, so there the claim is empty.
        eps: A number with 1/(n+1) < eps <= 1.

    Returns:
        A table with n axes of size 2.

    Raises:
        ConfigError: n or eps lie outside.
    """
    if n < 2:
        raise ConfigError(f"tight_counterexample(n={n}): n must be at least 2; a single position is its own marginal")
    if not 1 / (n + 1) < eps <= 1:
        raise ConfigError(
            f"tight_counterexample(n={n}, eps={eps}): eps must lie in (1/{n + 1}, 1]; else Theorem 1 holds"
        )
    eta = (eps - 1 / (n + 1)) / (n + 1)
    ones = torch.stack(torch.meshgrid([torch.arange(2)] * n, indexing="ij")).sum(0)
    joint = torch.zeros((2,) * n, dtype=torch.float64)
    joint[ones == 0] = 1 / (n + 1) - eta
    joint[ones == 1] = 1 / (n + 1) + eta / n
    return joint


def correlated_joint(weights: Float[Tensor, " v"], n: int) -> Float64[Tensor, "..."]:
    """Build a joint whose n positions always agree; its total correlation is (n-1) H(weights).

    Args:
        weights: Probability of each token on which they agree.
        n: Number of positions.
    """
    index = torch.arange(weights.shape[0])
    zeros = weights.new_zeros((weights.shape[0],) * n, dtype=torch.float64)
    return zeros.index_put((index,) * n, weights.double())


def xor_joint(n: int, vocabulary: int = 2) -> Float64[Tensor, "..."]:
    """Build the uniform law over texts whose sum is 0 modulo v: n-1 positions are independent, and fix the last one."""
    total = torch.stack(torch.meshgrid([torch.arange(vocabulary)] * n, indexing="ij")).sum(0)
    uniform: Tensor = (total % vocabulary == 0).double() / vocabulary ** (n - 1)
    return uniform


POKER_WORDS = ("high", "one", "two", "full", "card", "pair", "house")


def poker_hand_joint() -> Float64[Tensor, "7 7"]:
    """Build a joint of two words that name a poker hand, in which both modes are likely and together impossible.

    It is indexed as `POKER_WORDS`: high card .40, one pair .30, two pair .25, full house .05. The modes are "high"
    (.40) and "pair" (.55). With c_1 + c_2 > 1 a pair of modes is always possible, so no joint of two positions fools a
    threshold above one half; three positions need more than two thirds, n positions more than 1 - 1/n (Frechet).

    References:
        The example of [F]; the probabilities are ours.
    """
    hands = {("high", "card"): 0.40, ("one", "pair"): 0.30, ("two", "pair"): 0.25, ("full", "house"): 0.05}
    joint = torch.zeros(len(POKER_WORDS), len(POKER_WORDS), dtype=torch.float64)
    for (first, second), probability in hands.items():
        joint[POKER_WORDS.index(first), POKER_WORDS.index(second)] = probability
    return joint
