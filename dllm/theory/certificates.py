"""Certificates: True means that the greedy candidates are the one and only mode of every joint with these marginals."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ULPS = 64
"""Each probability handed to a certificate may be off by `ULPS * finfo(dtype).eps`: 7.6e-6 in float32."""


def _rounding_slack(probability: Float[Tensor, "..."]) -> float:
    """Compute by how much a probability of this dtype may be off."""
    return ULPS * torch.finfo(probability.dtype).eps


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
