"""The entropy bound: as many slots as a bound on their shared information allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import PrefixRule, Ranking
from dllm.policies.scores import NegativeEntropy, Score
from dllm.signals import Entropy
from dllm.types import Guess, Probe, Signal


@dataclass(frozen=True)
class EntropyBound(PrefixRule):
    """Commit the longest prefix with sum_j H_j - max_j H_j <= gamma, which bounds the KL of drawing it at once.

    A gamma of 0 commits one slot a step, and with it all slots whose entropy is zero; a large gamma commits the window.

    The bound (`theory.entropy_bound`) holds for a coherent joint, fresh predictions and candidates drawn at
    temperature 1 in an order that does not depend on the draw (so not by `Confidence`, which is that of the drawn
    token).

    Attributes:
        gamma: Nats, 0 or more. The tables of the paper use 0.1, 0.01 and 0.001.
        score: Estimate of the error by which slots are sorted: `NegativeEntropy()`, `Confidence()` or `Margin()`.

    References:
        Ben-Hamu et al. 2025, EB-Sampler (arXiv:2505.24857), Algorithm 1.
    """

    gamma: float = 0.1
    score: Score = NegativeEntropy()

    def __post_init__(self) -> None:
        if not self.gamma >= 0 or math.isinf(self.gamma):
            raise ConfigError(f"EntropyBound(gamma={self.gamma}): gamma must be 0 or more; a large number commits all")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return (*self.score.needs, Entropy())

    def holds(self, ranked: Ranking, score: Float[Tensor, "b k"], guess: Guess, /) -> Bool[Tensor, "b k"]:
        entropy = ranked.sort(guess[Entropy()])
        return entropy.cumsum(1) - entropy.cummax(1).values <= self.gamma
