"""A number of slots per step: fixed, or by a pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.pace import Pace, split_evenly
from dllm.policies.prefix_rule import ScoreRule, rank_slots
from dllm.policies.scores import Confidence, Score
from dllm.types import Canvas, Guess, Verdict, Window


class TopKState(NamedTuple):
    """State of the policies that count slots.

    Attributes:
        opened: Slots that were pending when the range was opened.
        left: Part of the budget that was not used so far.
    """

    opened: Int[Tensor, " b"]
    left: Int[Tensor, " b"]


@dataclass(frozen=True)
class TopK(ScoreRule):
    """Commit the best `k` pending slots of each step, or the quota of a pace.

    Attributes:
        k: Slots per step. Exactly one of k and pace is given.
        pace: Quota by step, for a scheduler with `steps`: `EqualSplit` (LLaDA), `TimeSchedule` (Dream) or `FullBlock`
            (SDAR).
        tau: If at least the quota of slots have a confidence above tau, commit exactly those (SDAR's "dynamic"; the
            comparison is strict, as published). None: never.
        score: Order of preference: `Confidence`, `Margin`, `NegativeEntropy`, `Random`, or `LeftToRight`
            ("sequential").

    References:
        LLaDA (arXiv:2502.09992), Dream (arXiv:2508.15487), SDAR (arXiv:2510.06303).
    """

    k: int | None = None
    pace: Pace | None = None
    tau: float | None = None
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if (self.k is None) == (self.pace is None):
            raise ConfigError(f"{self}: give either k, slots per step, or a pace")
        if self.k is not None and self.k < 1:
            raise ConfigError(f"TopK(k={self.k}): k must be at least 1")
        if self.tau is not None and not self.tau >= 0:
            raise ConfigError(f"TopK(tau={self.tau}): tau must be 0 or more, or None")

    @property
    def paced(self) -> bool:
        return self.pace is not None

    def init(self, canvas: Canvas, /) -> TopKState:
        return _initial_top_k_state(canvas)

    def step(self, guess: Guess, window: Window, state: TopKState, /) -> tuple[Verdict, TopKState]:
        state = _count_opened_slots(state, window)
        score = self.score(guess, window)
        if self.pace is None:
            quota, rest = torch.full_like(state.opened, self.k or 1), None
        else:
            quota = self.pace.quota(window, state.opened)
            rest = (quota == 0) if self.pace.rests else None
        accept = (rank_slots(score, window.pending).rank < quota.unsqueeze(1)) & window.pending
        if self.tau is not None:
            sure = (guess.confidence > self.tau) & window.pending
            accept = torch.where((sure.sum(1) >= quota.clamp(min=1)).unsqueeze(1), sure, accept)
        return Verdict(accept, score, rest), state


@dataclass(frozen=True)
class BudgetedThreshold(ScoreRule):
    """A threshold that never runs ahead of a pace: at each step the best slots within the budget, if they reach `tau`.

    The budget of a step is its even share of the slots, and what earlier steps left unused of theirs; when the planned
    steps are over, it is what is left. So the threshold can only slow decoding down, never beyond one slot a step.

    Attributes:
        tau: Least score, 0 or more.
        score: Order of preference.

    References:
        Dream without cache in the Fast-dLLM repository, `alg="confidence_threshold"` of generation_utils.py.

    Departures:
        A number of slots that the steps do not divide gives its remainder to the first steps, while the published code
        refuses it.
    """

    tau: float = 0.9
    score: Score = Confidence()
    paced: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ConfigError(f"BudgetedThreshold(tau={self.tau}): tau must be 0 or more")

    def init(self, canvas: Canvas, /) -> TopKState:
        return _initial_top_k_state(canvas)

    def step(self, guess: Guess, window: Window, state: TopKState, /) -> tuple[Verdict, TopKState]:
        state = _count_opened_slots(state, window)
        share = split_evenly(state.opened, window)
        assert window.steps is not None
        budget = torch.where(window.step < window.steps, share, 0) + state.left
        score = self.score(guess, window)
        rank = rank_slots(score, window.pending).rank
        accept = (rank < budget.unsqueeze(1)) & window.pending & ((score >= self.tau) | (rank == 0))
        used = accept.sum(1)
        return Verdict(accept, score), state._replace(left=(budget - used).clamp(min=0))


def _initial_top_k_state(canvas: Canvas) -> TopKState:
    """Make the state before the first step."""
    zeros = torch.zeros(len(canvas.tokens), dtype=torch.int64, device=canvas.tokens.device)
    return TopKState(zeros, zeros)


def _count_opened_slots(state: TopKState, window: Window) -> TopKState:
    """Count the pending slots of rows whose range was just opened."""
    opening = window.step == 0
    return TopKState(torch.where(opening, window.pending.sum(1), state.opened), torch.where(opening, 0, state.left))
