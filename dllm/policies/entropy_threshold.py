"""Entropy threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import PrefixRule, Ranking
from dllm.policies.scores import NegativeEntropy, Score
from dllm.types import Guess


@dataclass(frozen=True)
class EntropyThreshold(PrefixRule):
    """Commit every pending slot whose entropy is at most `h`, and always the surest one (the loop sees to that).

    h 0 commits one slot a step, and with it all slots whose entropy is zero; a large h commits the whole window.

    h  nats, 0 or more

    Reference: Chen et al. 2025, dParallel (arXiv:2509.26488), decoding only; its default 0.5 is meant for a checkpoint
    trained to be certain early.
    """

    h: float = 0.5
    score: Score = NegativeEntropy()

    def __post_init__(self) -> None:
        if not self.h >= 0 or math.isinf(self.h):
            raise ConfigError(f"EntropyThreshold(h={self.h}): h must be 0 or more; a large number commits all")
        if not isinstance(self.score, NegativeEntropy):
            raise ConfigError(f"{self}: the threshold is on entropy; for another score use Threshold(tau, score=...)")

    def holds(self, ranked: Ranking, score: Tensor, guess: Guess, /) -> Tensor:
        return score >= -self.h
