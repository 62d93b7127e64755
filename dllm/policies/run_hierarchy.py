"""Divide and conquer: one slot of every run of pending columns at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule, rank_slots
from dllm.policies.scores import Confidence, Score
from dllm.types import Guess, State, Verdict, Window


@dataclass(frozen=True)
class RunHierarchy(ScoreRule):
    """Commit every pending slot above `tau`, and of each run of adjacent pending columns the best, if above `low`.

    So what is committed together without being sure is kept apart by decided text or by other pending columns, and
    every commit splits a run in two. low = tau is `Threshold(tau, strict=True)`; low 0 decides one slot of every run
    in every step.

    tau  score above which a slot is committed in any case
    low  score above which the best of a run is, at most tau

    Reference: Ma et al. 2025, dInfer (arXiv:2510.08666), `HierarchyDecoder`; its benchmarks use low 0.3. The variant
    that takes back uncertain tokens is not this one.
    """

    tau: float = 0.9
    low: float = 0.4
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.tau:
            raise ConfigError(f"{self}: low must lie in 0..tau, which is {self.tau}")

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        score = self.score(guess, window)
        place = rank_slots(score, window.pending).rank
        run = _pending_runs(window)
        none = torch.full((len(place), place.shape[1] + 1), place.shape[1], device=place.device)
        first = none.scatter_reduce(1, run, place, "amin").gather(1, run)
        best = (place == first) & (score > self.low)
        return Verdict(((score > self.tau) | best) & window.pending, score), state


def _pending_runs(window: Window) -> Tensor:
    """Which run of adjacent pending columns, counted from 1, a slot (b, k) is in; 0 where it is not pending."""
    pending, columns = window.pending, window.columns
    joined = pending[:, 1:] & pending[:, :-1] & (columns[:, 1:] == columns[:, :-1] + 1)
    starts = pending & ~torch.nn.functional.pad(joined, (1, 0))
    return torch.where(pending, starts.long().cumsum(1), 0)
