"""Masking noise of block diffusion, and the complement that makes every supervised token be learned once.

Source: Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328), and the training forward of its published model.
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor

IGNORE = -100


def draw_noise(labels: Tensor, block: int, *, eps: float = 1e-3, rng: torch.Generator | None = None) -> Tensor:
    """Draw which supervised tokens to mask: one rate a block and row, one coin a token.

    labels  (b, t) int64  the token to predict at each column, `IGNORE` where nothing is supervised
    block   columns a block; blocks start at multiples of it, the last may be short
    eps     lowest rate: t ~ U(0, 1) a block and row, rate (1 - eps) t + eps

    Returns (b, t) bool, True where the noised copy shows the mask id; never True where `labels` is `IGNORE`.
    Raises ValueError if `block` is below 1.
    """
    if block < 1:
        raise ValueError(f"draw_noise(block={block}): a block holds at least one column")
    groups = repeat(torch.arange(labels.shape[1], device=labels.device) // block, "t -> b t", b=len(labels))
    return draw_grouped_noise(labels, groups, eps=eps, rng=rng)[0]


def draw_grouped_noise(
    labels: Tensor, groups: Tensor, *, eps: float = 1e-3, rng: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """`draw_noise` over any groups of columns: columns of a row with the same number in `groups` (b, t) share a rate.

    groups  (b, t) int64, numbered from 0

    Returns the mask (b, t) bool and the rate (b, t) each column was masked at.
    """
    time = torch.rand(len(labels), int(groups.max()) + 1, generator=rng, device=labels.device)
    rate = ((1 - eps) * time + eps).gather(1, groups)
    coin = torch.rand(labels.shape, generator=rng, device=labels.device)
    return (coin < rate) & (labels != IGNORE), rate


def complement_mask(noised: Tensor, labels: Tensor) -> Tensor:
    """The other copy's mask: exactly the supervised tokens that `noised` (b, t) left in clear."""
    return ~noised & (labels != IGNORE)


def select_noised_labels(labels: Tensor, noised: Tensor) -> Tensor:
    """Labels (b, t) kept only where the copy shows the mask id; `IGNORE` elsewhere."""
    return labels.masked_fill(~noised, IGNORE)
