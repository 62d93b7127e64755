"""Confidence threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule
from dllm.policies.scores import Confidence, Score
from dllm.types import Guess, State, Verdict, Window


@dataclass(frozen=True)
class Threshold(ScoreRule):
    """Commit every pending slot whose score reaches `tau`, and always the best one (the loop sees to that).

    tau 0 commits the whole window at once; tau above 1 commits one slot a step.

    tau     least score, 0 or more
    strict  a score equal to tau does not pass (Fast-dLLM v2, SDAR); by default it does (Fast-dLLM)

    Reference: Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), section 3.3.
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
