"""Divide and conquer: one slot of every run of pending columns at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import ScoreRule, rank_slots
from dllm.policies.scores import Confidence, Score
from dllm.types import Guess, State, Verdict, Window


@dataclass(frozen=True)
class RunHierarchy(ScoreRule):
    """Commit every pending slot above `tau`, and of each run of adjacent pending columns the best, if above `low`.

    So slots that are committed together at a score below tau are kept apart by decided text or by other pending
    columns, and every commit splits a run in two. With low = tau it is `Threshold(tau, strict=True)`; a low of 0
    decides one slot of every run in every step.

    Attributes:
        tau: Score above which a slot is committed in any case.
        low: Score above which the best slot of a run is committed, at most tau.
        score: Preference of each slot.

    References:
        Ma et al. 2025, dInfer (arXiv:2510.08666), `HierarchyDecoder`; its benchmarks use a low of 0.3.

    Departures:
        The published variant that takes back uncertain tokens is left out.
    """

    tau: float = 0.9
    low: float = 0.4
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.tau:
            raise ConfigError(f"{self}: low must lie in 0..tau, which is {self.tau}")

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        score = self.score(guess, window)
        rank = rank_slots(score, window.pending).rank
        run = _number_runs(window)
        # The lowest rank within each run. Run 0 gathers the slots that are not pending, which are masked below.
        lowest = torch.full((len(rank), rank.shape[1] + 1), rank.shape[1], device=rank.device)
        first = lowest.scatter_reduce(1, run, rank, "amin").gather(1, run)
        best = (rank == first) & (score > self.low)
        return Verdict(((score > self.tau) | best) & window.pending, score), state


def _number_runs(window: Window) -> Int[Tensor, "b k"]:
    """Number the runs of adjacent pending columns of each row from 1; slots that are not pending get 0."""
    pending, columns = window.pending, window.columns
    joined = pending[:, 1:] & pending[:, :-1] & (columns[:, 1:] == columns[:, :-1] + 1)
    starts = pending & ~torch.nn.functional.pad(joined, (1, 0))
    return torch.where(pending, starts.long().cumsum(1), 0)
