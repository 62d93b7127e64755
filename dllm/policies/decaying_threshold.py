"""A threshold that starts at certainty and falls with every step."""

from __future__ import annotations

from dataclasses import dataclass

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule
from dllm.policies.scores import Confidence, Score
from dllm.types import Guess, State, Verdict, Window


@dataclass(frozen=True)
class DecayingThreshold(ScoreRule):
    """Commit every pending slot whose score reaches max(1 - decay * step, tau); steps count from 0 in every window.

    A decay of 0 commits one slot a step, and all certain ones. A decay of 1 is `Threshold(tau)` from the second step
    on.

    Attributes:
        tau: Threshold below which it does not fall, 0 or more.
        decay: Amount by which the threshold falls every step, 0 or more.
        score: Preference of each slot.

    References:
        Ma et al. 2025, dInfer (arXiv:2510.08666), the threshold of `IterSmooth`.

    Departures:
        The smoothed input embeddings that go with it in dInfer are no part of a policy.
    """

    tau: float = 0.9
    decay: float = 0.02
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not (self.tau >= 0 and self.decay >= 0):
            raise ConfigError(f"{self}: tau and decay must be 0 or more")

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        score = self.score(guess, window)
        level = (1 - self.decay * window.step).clamp(min=self.tau)
        return Verdict((score >= level.unsqueeze(1)) & window.pending, score), state
