"""Joints that make a point, such as those in which a certificate or a bound is sharp."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dllm.errors import ConfigError


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
