"""A threshold on the score of each slot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule
from dllm.policies.scores import Confidence, Score
from dllm.types import Guess, State, Verdict, Window


@dataclass(frozen=True)
class Threshold(ScoreRule):
    """Commit every pending slot whose score reaches `tau`; where none does, the loop commits the best one.

    A tau of 0 commits the whole window at once; a tau above 1 commits one slot a step.

    Attributes:
        tau: Least score, 0 or more.
        strict: Whether a score equal to tau fails (as in Fast-dLLM v2 and SDAR). By default it passes (as in
            Fast-dLLM).
        score: Preference of each slot.

    References:
        Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), section 3.3.
    """

    tau: float = 0.9
    strict: bool = False
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not self.tau >= 0 or math.isinf(self.tau):
            raise ConfigError(f"Threshold(tau={self.tau}): tau must be 0 or more; above 1 commits one token a step")

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        score = self.score(guess, window)
        reached = score > self.tau if self.strict else score >= self.tau
        return Verdict(reached & window.pending, score), state
