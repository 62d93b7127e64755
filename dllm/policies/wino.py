"""WINO: draft widely, then verify each token without looking at it, and take back those that fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import rank_slots
from dllm.policies.revising import RevisingPolicy, decided_slots, lowest_slots, rows_still_pending
from dllm.policies.scores import Confidence, Score
from dllm.signals import Shadow
from dllm.types import Canvas, Guess, Probe, Signal, Verdict, Window


@dataclass(frozen=True)
class WINO(RevisingPolicy):
    """Commit every pending slot whose score is above `tau`, and revoke decided tokens that fail verification.

    A decided token fails if its probability is below `verify` when it is predicted without looking at it
    (`signals.Shadow`).

    Of n pending slots at most min(max(⌊0.7 n⌋, 5), 20) are committed in a step. A step that commits one alone revokes
    nothing; any other revokes fewer than the step before has committed, the least likely first. So the number of
    decided slots grows, and a range takes no more steps than it has columns. Tokens that are committed by the last step
    of a range are not verified.

    A verify of 0 revokes nothing. Shadow slots cost as many columns a forward as the window has.

    Attributes:
        tau: Least score of a draft, exclusive.
        verify: Least probability of a decided token.
        score: Preference of each slot.

    References:
        Hong et al. 2025, WINO (arXiv:2507.18578), `decoding_wino` of its repository; tau is 0.6 there, and in the
        tables of others 0.7 for HumanEval and 0.8 for MBPP.

    Departures:
        It works with any cache, while the published one works with none. The shadow slots of token-shifted models are
        ours (`dllm.caches.shadows`).
    """

    tau: float = 0.6
    verify: float = 0.9
    score: Score = Confidence()

    least: ClassVar[int] = 5
    most: ClassVar[int] = 20
    opening: ClassVar[int] = 30
    """Number that counts as committed before a range's first step."""

    def __post_init__(self) -> None:
        if not (self.tau >= 0 and self.verify >= 0):
            raise ConfigError(f"{self}: tau and verify must be 0 or more; verify=0 takes nothing back")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return (*self.score.needs, Shadow())

    def init(self, canvas: Canvas, /) -> Int[Tensor, " b"]:
        """Make the state: the number of slots committed by the last step."""
        return torch.full((len(canvas.tokens),), self.opening, device=canvas.tokens.device)

    def step(self, guess: Guess, window: Window, state: Int[Tensor, " b"], /) -> tuple[Verdict, Int[Tensor, " b"]]:
        last = torch.where(window.step == 0, self.opening, state)
        score, left = self.score(guess, window), window.pending.sum(1)
        cap = (7 * left // 10).clamp(self.least, self.most)
        draft = window.pending & (score > self.tau)
        accept = draft & (rank_slots(score, window.pending).rank < cap.unsqueeze(1))
        weak = decided_slots(window) & (guess[Shadow()] < self.verify)
        count = torch.minimum(weak.sum(1), last - 1)
        revoke = lowest_slots(guess[Shadow()], weak, torch.where(accept.sum(1) > 1, count, 0))
        hold = rows_still_pending(window, accept, revoke) & (self.verify > 0)
        last = torch.where(left > 0, accept.sum(1).clamp(min=1), last)
        return Verdict(accept, score, revoke=revoke, hold=hold), last
