"""Joints written out as tables: their marginals, modes, entropies and distances, and conditioning on evidence."""

from __future__ import annotations

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError


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
