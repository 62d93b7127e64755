"""Uncertainty of a share of right answers: intervals and probabilities for small counts, without a dependency."""

from __future__ import annotations

import math
from random import Random

Z = 1.959964
"""Quantile of the normal distribution for a two-sided interval of 95 %."""
DRAWS = 10_000
"""Random draws behind a probability; its standard error is then at most half a percentage point."""


def wilson_interval(correct: int, total: int, z: float = Z) -> tuple[float, float]:
    """Return the interval of a binomial share; (0, 1) if nothing was counted.

    Args:
        correct: Number of right answers.
        total: Number of questions.
        z: Half the width of the interval, in standard errors.

    References:
        Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if not total:
        return 0.0, 1.0
    share, spread = correct / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def probability_of_reaching(correct: int, total: int, target: float) -> float:
    """Return the probability that the true share is at least `target`.

    The prior is that of Jeffreys, Beta(1/2, 1/2), so the posterior is Beta(correct + 1/2, total - correct + 1/2).
    """
    draws = Random(0)
    hits = sum(draws.betavariate(correct + 0.5, total - correct + 0.5) >= target for _ in range(DRAWS))
    return hits / DRAWS


def probability_of_keeping(gained: int, lost: int, total: int, tolerance: float) -> float:
    """Return the probability that the true share fell by at most `tolerance`, from a paired comparison.

    The shares of questions that only the new strategy, only the old one, and both or neither answer have a Dirichlet
    posterior, with half a question for each in the prior.

    Args:
        gained: Number of questions that only the new strategy answers.
        lost: Number of questions that only the old strategy answers.
        total: Number of questions.
        tolerance: Largest fall of the share that is accepted, for instance 0.02.
    """
    draws = Random(0)
    hits = 0
    for _ in range(DRAWS):
        # Gamma variates divided by their sum are a draw from the Dirichlet distribution.
        up, down, rest = (draws.gammavariate(n + 0.5, 1) for n in (gained, lost, total - gained - lost))
        hits += (up - down) / (up + down + rest) >= -tolerance
    return hits / DRAWS
