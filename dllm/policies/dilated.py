"""Dilated unmasking: rounds of columns that lie far apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule
from dllm.policies.scores import Confidence, Score
from dllm.types import Canvas, Guess, Verdict, Window


@dataclass(frozen=True)
class Dilated(ScoreRule):
    """Commit the pending columns of the coarsest grid that still has one, whatever the model predicts there.

    With a = `base`, a window of B columns has the grids of spacing ⌊B/a⌋, ⌊B/a²⌋, … 1, counted from its first column;
    so it takes ⌈log_a B⌉ steps at most. For B = 8 and base 2 the rounds are {0, 4}, {2, 6}, {1, 3, 5, 7}. A base of B
    or more commits the window at once.

    Attributes:
        base: Factor by which each round is denser than the one before, 2 or more.
        tau: Columns whose score is below it are put off: they are considered again with every finer grid, and committed
            with the finest in any case, so that there are no more rounds. 0 puts nothing off; the default of the
            published code is 0.3.
        score: Preference of each slot.

    References:
        Luxembourg et al. 2025, DUS (arXiv:2506.19037), `generate_scheduled` of its repository.

    Departures:
        The next round is read off what is pending, so that a column decided in another way (by a commit, or as the end
        of the prompt) takes no round. A last round that is smaller than the one before is not joined to it (with a
        power of the base no round is). A column that is put off is decided in a later round, while the published code
        leaves it masked for good.
    """

    base: int = 2
    tau: float = 0.0
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if self.base < 2:
            raise ConfigError(f"{self}: base must be at least 2; each round is so many times denser than the last")
        if not self.tau >= 0:
            raise ConfigError(f"{self}: tau must be 0 or more; 0 puts nothing off")

    def init(self, canvas: Canvas, /) -> Bool[Tensor, "b t"]:
        """Make the state: the columns that were put off, at first none."""
        return torch.zeros_like(canvas.pending)

    def step(self, guess: Guess, window: Window, state: Bool[Tensor, "b t"], /) -> tuple[Verdict, Bool[Tensor, "b t"]]:
        score, level = self.score(guess, window), self._grid_level(window)
        late = window.take(state) & window.pending
        on_time = window.pending & ~late
        # Columns that were put off do not hold the rounds up: the round is that of the coarsest grid among the others.
        now = torch.where(on_time, level, level.shape[1]).amin(1, keepdim=True)
        last = ~(on_time & (level > now)).any(1, keepdim=True)
        in_round = (on_time & (level == now)) | late
        accept = in_round & (last | (score >= self.tau)) if self.tau > 0 else in_round
        # Should the threshold accept nothing, the loop commits the best slot of the round and not one outside it.
        return Verdict(accept, score.masked_fill(~in_round, -torch.inf)), window.put(state, True, in_round & ~accept)

    def _grid_level(self, window: Window) -> Int[Tensor, "b k"]:
        """Find the coarsest grid, counted from 0, on which each slot lies."""
        k, grids = window.columns.shape[1], 1
        while self.base**grids < k:
            grids += 1
        size = rearrange(window.valid.sum(1), "b -> b 1 1")
        spacing = (size // self.base ** torch.arange(1, grids + 1, device=size.device)).clamp(min=1)
        offset = rearrange(window.columns - window.columns[:, :1], "b k -> b k 1")
        return (offset % spacing == 0).long().argmax(-1)
