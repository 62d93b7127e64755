"""Signals of slots that are decided already: how probable their token is, with and without looking at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dllm.types import LogitScale, Signal, Where


@dataclass(frozen=True)
class Current(Signal):
    """Probability of the token that a decided slot holds; 0 where a slot is pending.

    With it the guess covers decided slots of the answer too.
    """

    covers_decided: ClassVar[bool] = True

    def compute(self, logits: Float[Tensor, "n v"], where: Where, scale: LogitScale, /) -> Float[Tensor, " n"]:
        current = scale.probability(logits.gather(-1, where.token.unsqueeze(-1))).squeeze(-1)
        return torch.where(where.pending, 0, current)


@dataclass(frozen=True)
class Shadow(Signal):
    """Probability of the token that a decided slot holds, predicted without looking at that slot; 0 elsewhere.

    The forward runs a shadow slot for each slot of the window beside it (`dllm.caches.shadows`), and `compute` gets the
    logits of these: the only signal that is not computed from the logits of the window.

    References:
        Hong et al. 2025, WINO (arXiv:2507.18578).
    """

    covers_decided: ClassVar[bool] = True
    reads_logits: ClassVar[bool] = False

    def compute(self, logits: Float[Tensor, "n v"], where: Where, scale: LogitScale, /) -> Float[Tensor, " n"]:
        chance = logits.log_softmax(-1).gather(-1, where.token.unsqueeze(-1)).squeeze(-1).exp()
        return torch.where(where.pending, 0, chance)
