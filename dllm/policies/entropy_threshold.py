"""A threshold on the entropy of each marginal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import PrefixRule, Ranking
from dllm.policies.scores import NegativeEntropy, Score
from dllm.types import Guess


@dataclass(frozen=True)
class EntropyThreshold(PrefixRule):
    """Commit every pending slot whose entropy is at most `h`; where there is none, the loop commits the surest one.

    An h of 0 commits one slot a step, and with it all slots whose entropy is zero; a large h commits the whole window.

    Attributes:
        h: Nats, 0 or more.
        score: Always `NegativeEntropy()`.

    References:
        Chen et al. 2025, dParallel (arXiv:2509.26488), decoding only; its default 0.5 is meant for a checkpoint trained
        to be certain early.
    """

    h: float = 0.5
    score: Score = NegativeEntropy()

    def __post_init__(self) -> None:
        if not self.h >= 0 or math.isinf(self.h):
            raise ConfigError(f"EntropyThreshold(h={self.h}): h must be 0 or more; a large number commits all")
        if not isinstance(self.score, NegativeEntropy):
            raise ConfigError(f"{self}: the threshold is on entropy; for another score use Threshold(tau, score=...)")

    def holds(self, ranked: Ranking, score: Float[Tensor, "b k"], guess: Guess, /) -> Bool[Tensor, "b k"]:
        return score >= -self.h
