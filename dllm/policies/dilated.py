"""Dilated unmasking: rounds of columns that lie far apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule
from dllm.policies.scores import Confidence, Score
from dllm.types import Canvas, Guess, Verdict, Window


@dataclass(frozen=True)
class Dilated(ScoreRule):
    """Commit, whatever the model thinks, the pending columns of the coarsest grid that still has one.

    A window of B columns has the grids of spacing ⌊B/a⌋, ⌊B/a²⌋, … 1, counted from its first column, with a = `base`;
    so it takes ⌈log_a B⌉ steps at most. B = 8, base 2: {0, 4}, {2, 6}, {1, 3, 5, 7}. A base of B or more commits the
    window at once.

    base  2 or more
    tau   columns whose score is below it are put off: they are looked at again with every finer grid, and committed
          with the finest in any case, so that there are no more rounds. 0: none; the published code's default is 0.3

    Reference: Luxembourg et al. 2025, DUS (arXiv:2506.19037), `generate_scheduled` of its repository. Departs from it:
    which round comes next is read off what is pending, so that a column decided by somebody else (a commit, the
    prompt's tail) takes no round; a last round smaller than the one before is not joined to it (which no power of the
    base has); and what is put off is decided in a later round, where the published code leaves it masked for good.
    """

    base: int = 2
    tau: float = 0.0
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if self.base < 2:
            raise ConfigError(f"{self}: base must be at least 2; each round is so many times denser than the last")
        if not self.tau >= 0:
            raise ConfigError(f"{self}: tau must be 0 or more; 0 puts nothing off")

    def init(self, canvas: Canvas, /) -> Tensor:
        """Columns (b, t) that were put off."""
        return torch.zeros_like(canvas.pending)

    def step(self, guess: Guess, window: Window, state: Tensor, /) -> tuple[Verdict, Tensor]:
        score, level = self.score(guess, window), self._open_level(window)
        late = window.take(state) & window.pending
        due = window.pending & ~late
        now = torch.where(due, level, level.shape[1]).amin(1, keepdim=True)
        last = ~(due & (level > now)).any(1, keepdim=True)
        turn = (due & (level == now)) | late
        accept = turn & (last | (score >= self.tau)) if self.tau > 0 else turn
        return Verdict(accept, score.masked_fill(~turn, -torch.inf)), window.put(state, True, turn & ~accept)

    def _open_level(self, window: Window) -> Tensor:
        """The first grid, from 0, on which each slot (b, k) lies."""
        k, grids = window.columns.shape[1], 1
        while self.base**grids < k:
            grids += 1
        size = rearrange(window.valid.sum(1), "b -> b 1 1")
        spacing = (size // self.base ** torch.arange(1, grids + 1, device=size.device)).clamp(min=1)
        offset = rearrange(window.columns - window.columns[:, :1], "b k -> b k 1")
        return (offset % spacing == 0).long().argmax(-1)
