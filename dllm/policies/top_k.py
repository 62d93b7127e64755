"""A number of slots per step: fixed, or by a pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.pace import Pace
from dllm.policies.prefix_rule import rank_slots
from dllm.policies.scores import Confidence, Score
from dllm.types import Canvas, Guess, Policy, Probe, Signal, Verdict, Window


class TopKState(NamedTuple):
    """opened (b,) int64 slots pending when the range was opened · left (b,) int64 budget not used so far."""

    opened: Tensor
    left: Tensor


@dataclass(frozen=True)
class TopK(Policy):
    """Commit the best `k` pending slots of each step, or as many as a pace says.

    k      slots per step; exactly one of k and pace is given
    pace   quota by step, for a scheduler with `steps`: `EqualSplit` (LLaDA), `TimeSchedule` (Dream), `FullBlock` (SDAR)
    tau    if at least the quota of slots have a confidence above tau, commit exactly those (SDAR's "dynamic"; the
           comparison is strict, as published)
    score  order of preference: `Confidence`, `Margin`, `NegativeEntropy`, `Random`, or `LeftToRight` ("sequential")

    Reference: LLaDA (arXiv:2502.09992), Dream (arXiv:2508.15487), SDAR (arXiv:2510.06303).
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
    def needs(self) -> tuple[Signal | Probe, ...]:
        return self.score.needs

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
class BudgetedThreshold(Policy):
    """A threshold that never runs ahead of a pace: at each step the best slots within the budget, if they reach `tau`.

    What a step leaves unused of its share is added to the next ones; when the planned steps are over, what is left is
    all budget. So the threshold can only slow decoding down, never beyond one slot a step.

    Reference: Dream without cache in the Fast-dLLM repository, `alg="confidence_threshold"` of generation_utils.py.
    Departs from it: a number of slots that the steps do not divide gives its remainder to the first steps, where the
    published code refuses it.
    """

    tau: float = 0.9
    score: Score = Confidence()
    paced: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ConfigError(f"BudgetedThreshold(tau={self.tau}): tau must be 0 or more")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return self.score.needs

    def init(self, canvas: Canvas, /) -> TopKState:
        return _initial_top_k_state(canvas)

    def step(self, guess: Guess, window: Window, state: TopKState, /) -> tuple[Verdict, TopKState]:
        state = _count_opened_slots(state, window)
        assert window.steps is not None
        share = state.opened // window.steps + (window.step < state.opened % window.steps)
        budget = torch.where(window.step < window.steps, share, 0) + state.left
        score = self.score(guess, window)
        place = rank_slots(score, window.pending).rank
        accept = (place < budget.unsqueeze(1)) & window.pending & ((score >= self.tau) | (place == 0))
        used = accept.sum(1)
        return Verdict(accept, score), state._replace(left=(budget - used).clamp(min=0))


def _initial_top_k_state(canvas: Canvas) -> TopKState:
    zeros = torch.zeros(len(canvas.tokens), dtype=torch.int64, device=canvas.tokens.device)
    return TopKState(zeros, zeros)


def _count_opened_slots(state: TopKState, window: Window) -> TopKState:
    """Count the pending slots of rows whose range was just opened."""
    opening = window.step == 0
    return TopKState(torch.where(opening, window.pending.sum(1), state.opened), torch.where(opening, 0, state.left))
