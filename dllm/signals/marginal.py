"""Signals of the marginal: its entropy, the whole of it, and the runner-up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dllm.types import LogitScale, Signal, Where


@dataclass(frozen=True)
class Entropy(Signal):
    """Entropy of each marginal, in nats."""

    def compute(self, logits: Float[Tensor, "n v"], where: Where, scale: LogitScale, /) -> Float[Tensor, " n"]:
        entropy: Tensor = torch.special.entr(scale.probability(logits)).sum(-1)
        return entropy


@dataclass(frozen=True)
class Probabilities(Signal):
    """The whole marginal of each slot: (b, k, v) numbers, which is a lot of memory."""

    def compute(self, logits: Float[Tensor, "n v"], where: Where, scale: LogitScale, /) -> Float[Tensor, "n v"]:
        return scale.probability(logits)


@dataclass(frozen=True)
class SecondToken(Signal):
    """The second likeliest token of each slot; never the mask id."""

    def compute(self, logits: Float[Tensor, "n v"], where: Where, scale: LogitScale, /) -> Int[Tensor, " n"]:
        best = logits.topk(min(3, logits.shape[-1])).indices
        if where.mask_id is None:
            return best[:, 1]
        # of the three likeliest at most one is the mask: drop it, and take the second of the others
        rank = (best != where.mask_id).long().cumsum(1)
        return best.gather(1, (rank >= 2).long().argmax(1, keepdim=True)).squeeze(1)
