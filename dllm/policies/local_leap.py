"""Local leap: near a slot of high score, a lower score is enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule
from dllm.policies.scores import Confidence, Score
from dllm.types import Canvas, Guess, Verdict, Window


@dataclass(frozen=True)
class LocalLeap(ScoreRule):
    """Commit every pending slot whose score reaches `tau`, and those up to `radius` columns from one at `relaxed`.

    With relaxed = tau, or a radius of 0, it is `Threshold(tau)`. The slots that reach tau are the only anchors: a slot
    that passes near one is not itself an anchor in the same step.

    Attributes:
        tau: Least score of an anchor.
        relaxed: Least score of a slot near an anchor, at most tau.
        radius: Columns to either side.
        score: Preference of each slot.

    References:
        Kong et al. 2025, LocalLeap (arXiv:2510.07081), as its re-implementation in the DAWN repository has it; the
        authors' own code was not read.
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

    def init(self, canvas: Canvas, /) -> Float[Tensor, "b t"]:
        """Make the state, which never changes: a plane of zeros, on which to find neighbours by their columns."""
        return torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)

    def step(
        self, guess: Guess, window: Window, state: Float[Tensor, "b t"], /
    ) -> tuple[Verdict, Float[Tensor, "b t"]]:
        score = self.score(guess, window)
        anchor = (score >= self.tau) & window.pending
        # Neighbours are found on the canvas and not among the slots, which need not be adjacent columns.
        plane = rearrange(window.put(state, 1.0, anchor), "b t -> b 1 t")
        reach = torch.nn.functional.max_pool1d(plane, 2 * self.radius + 1, stride=1, padding=self.radius)
        near = window.take(rearrange(reach, "b 1 t -> b t")) > 0
        return Verdict(near & (score >= self.relaxed) & window.pending, score), state
