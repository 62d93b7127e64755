"""Local leap: near a slot that is sure, less certainty is asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.scores import Confidence, Score
from dllm.types import Canvas, Guess, Policy, Probe, Signal, Verdict, Window


@dataclass(frozen=True)
class LocalLeap(Policy):
    """Commit every pending slot whose score reaches `tau`, and those up to `radius` columns from one at `relaxed`.

    relaxed = tau, or radius 0, is `Threshold(tau)`. The slots that reach tau are the only anchors: what they let pass
    does not spread further in the same step.

    tau      least score of an anchor
    relaxed  least score of a slot near an anchor, at most tau
    radius   columns to either side

    Reference: Kong et al. 2025, LocalLeap (arXiv:2510.07081), as its re-implementation in the DAWN repository has it;
    the authors' own code was not read.
    """

    tau: float = 0.9
    relaxed: float = 0.75
    radius: int = 4
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not 0 <= self.relaxed <= self.tau:
            raise ConfigError(f"{self}: relaxed must lie in 0..tau, which is {self.tau}")
        if self.radius < 0:
            raise ConfigError(f"{self}: radius must be 0 or more columns")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return self.score.needs

    def init(self, canvas: Canvas, /) -> Tensor:
        """A blank plane (b, t), on which to find neighbours by their columns."""
        return torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)

    def step(self, guess: Guess, window: Window, state: Tensor, /) -> tuple[Verdict, Tensor]:
        score = self.score(guess, window)
        anchor = (score >= self.tau) & window.pending
        plane = rearrange(window.put(state, 1.0, anchor), "b t -> b 1 t")
        reach = torch.nn.functional.max_pool1d(plane, 2 * self.radius + 1, stride=1, padding=self.radius)
        near = window.take(rearrange(reach, "b 1 t -> b t")) > 0
        return Verdict(near & (score >= self.relaxed) & window.pending, score), state
