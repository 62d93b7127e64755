"""Bounds on the price of sampling n >= 1 positions from the product Q of their marginals at once.

In the bounds of [F] `eps` must exceed every deficit e_j.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.theory.tables import entropy


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
