"""How sure a share of right answers is: intervals and probabilities for small counts, without a dependency."""

from __future__ import annotations

import math
from random import Random

Z = 1.959964
"""Two-sided 95 %."""
DRAWS = 10_000
"""Random draws behind a probability: its error is half a point."""


def wilson_interval(correct: int, total: int, z: float = Z) -> tuple[float, float]:
    """The interval of a binomial share (Wilson 1927); (0, 1) where nothing was counted."""
    if not total:
        return 0.0, 1.0
    share, spread = correct / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def probability_of_reaching(correct: int, total: int, target: float) -> float:
    """Probability that the true share is at least `target`, all shares being as likely beforehand (Jeffreys)."""
    draws = Random(0)
    hits = sum(draws.betavariate(correct + 0.5, total - correct + 0.5) >= target for _ in range(DRAWS))
    return hits / DRAWS


def probability_of_keeping(gained: int, lost: int, total: int, tolerance: float) -> float:
    """Probability that the true share fell by at most `tolerance`, from a comparison question by question.

    gained, lost  questions that only the new way, only the old way answers; the posterior of the two shares and of the
                  rest is a Dirichlet distribution with half a question beforehand for each
    """
    draws = Random(0)
    hits = 0
    for _ in range(DRAWS):
        up, down, rest = (draws.gammavariate(n + 0.5, 1) for n in (gained, lost, total - gained - lost))
        hits += (up - down) / (up + down + rest) >= -tolerance
    return hits / DRAWS
