"""Masking noise of block diffusion, and its complement, with which every supervised token is learnt exactly once.

References:
    Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328), and the training forward of its published model.
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor

IGNORE = -100
"""Label of a column that is not supervised; the default `ignore_index` of PyTorch's cross entropy."""


def draw_noise(labels: Tensor, block: int, *, eps: float = 1e-3, rng: torch.Generator | None = None) -> Tensor:
    """Draw which supervised tokens to mask: one rate for each block and row, then each token independently at it.

    Args:
        labels: (b, t) int64, the token to predict at each column, `IGNORE` where nothing is supervised.
        block: Columns of a block; blocks start at multiples of it, and the last may be short.
        eps: Lowest rate: t ~ U(0, 1) for each block and row, rate (1 - eps) t + eps.
        rng: Generator on the device of `labels`; None for PyTorch's own.

    Returns:
        (b, t) bool, True where the noised copy shows the mask id; never True where `labels` is `IGNORE`.

    Raises:
        ValueError: If `block` is below 1.
    """
    if block < 1:
        raise ValueError(f"draw_noise(block={block}): a block holds at least one column")
    groups = repeat(torch.arange(labels.shape[1], device=labels.device) // block, "t -> b t", b=len(labels))
    return draw_grouped_noise(labels, groups, eps=eps, rng=rng)[0]


def draw_grouped_noise(
    labels: Tensor, groups: Tensor, *, eps: float = 1e-3, rng: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw noise as `draw_noise` does, with one rate for each group of columns.

    Args:
        labels: (b, t) int64, as in `draw_noise`.
        groups: (b, t) int64, numbered from 0; columns of a row with the same number share a rate.
        eps: Lowest rate.
        rng: Generator on the device of `labels`; None for PyTorch's own.

    Returns:
        The mask (b, t) bool, and the rate (b, t) at which each column was masked.
    """
    time = torch.rand(len(labels), int(groups.max()) + 1, generator=rng, device=labels.device)
    rate = ((1 - eps) * time + eps).gather(1, groups)
    coin = torch.rand(labels.shape, generator=rng, device=labels.device)
    return (coin < rate) & (labels != IGNORE), rate


def complement_mask(noised: Tensor, labels: Tensor) -> Tensor:
    """Return the mask of the other copy: exactly the supervised tokens that `noised` (b, t) left visible."""
    return ~noised & (labels != IGNORE)


def select_noised_labels(labels: Tensor, noised: Tensor) -> Tensor:
    """Keep labels (b, t) only where the copy shows the mask id, with `IGNORE` elsewhere."""
    return labels.masked_fill(~noised, IGNORE)
