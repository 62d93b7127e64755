"""The factor rule: as many slots as Theorem 1 allows, and the variant that the published code runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import PrefixRule, Ranking
from dllm.policies.scores import Confidence, Score
from dllm.types import Guess


@dataclass(frozen=True)
class Factor(PrefixRule):
    """Commit the n most confident pending slots, where n is the largest with (n + 1) (1 - c₍ₙ₎) < f.

    If f is 1 or less, two or more slots that are committed at once are the joint arg-max of those slots given the
    context, provided that the marginals of the model come from one joint distribution (Theorem 1). A larger f commits
    more without a guarantee; as f goes to 0, one slot is committed a step.

    Attributes:
        f: The factor, above 0.
        score: Order of preference; c₍ₙ₎ is the n-th largest score.

    References:
        Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), section 3.3 and Theorem 1.

    Departures:
        The published code differs from the paper; it is `FactorAsPublished`.
    """

    f: float = 1.0
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not self.f > 0 or math.isinf(self.f):
            raise ConfigError(f"{type(self).__name__}(f={self.f}): f must be above 0; 1 keeps Theorem 1's guarantee")

    def holds(self, ranked: Ranking, score: Float[Tensor, "b k"], guess: Guess, /) -> Bool[Tensor, "b k"]:
        return (ranked.number + 1) * (1 - score) < self.f


@dataclass(frozen=True)
class FactorAsPublished(Factor):
    """The factor rule as the Fast-dLLM repository runs it, to reproduce its numbers.

    It differs from `Factor` in two ways: the comparison is not strict, and where only the least confident of two or
    more pending slots fails, that slot is committed all the same. With two slots left both are always committed,
    whatever their confidence, so **Theorem 1 does not hold** for this policy.

    Attributes:
        f: As in `Factor`.
        score: As in `Factor`.

    References:
        `get_transfer_index_dynamic` in v1/llada/generate.py of the Fast-dLLM repository (November 2025).
    """

    def holds(self, ranked: Ranking, score: Float[Tensor, "b k"], guess: Guess, /) -> Bool[Tensor, "b k"]:
        return (score >= 1 - self.f / (ranked.number + 1)) | (ranked.number == 1)

    def count(self, count: Int[Tensor, " b"], pending: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        return torch.where((pending >= 2) & (count == pending - 1), pending, count)
