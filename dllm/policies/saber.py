"""Saber: accelerate by what was sure before, and take back what became less sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import rank_slots
from dllm.policies.revising import RevisingPolicy, decided_slots, lowest_slots, rows_still_pending
from dllm.signals import Current
from dllm.types import Canvas, Guess, Probe, Signal, Verdict, Window


class SaberState(NamedTuple):
    """What each column showed.

    last     (b, t) float32  its candidate's confidence in the last step that looked at it, decided or not; 0 before
    written  (b, t) float32  the confidence with which it was last committed, also if it was revoked since; -1: never
    """

    last: Tensor
    written: Tensor


@dataclass(frozen=True)
class Saber(RevisingPolicy):
    """Commit every pending slot surer than the row's commits so far were on average, at least the best `n`; then revoke
    those decided slots whose candidate lost most confidence since the step before.

    A step that commits w slots revokes min(max(⌊n/2⌋, ⌈w/8⌉), w - 1), what it has just committed not excepted, but none
    once nothing is pending in the window. So every step decides at least one slot more, and a range takes no more steps
    than it has columns. n of a window's size commits it at once.

    n  slots, 1 or more; published with 2

    Reference: Dong et al. 2025, Saber (arXiv:2510.18165), `generate_with_saber` of its repository. Departs from it:
    only the window's slots are revoked (there, all of the answer; the two are the same with `Whole`, as published); a
    column's first confidence in a later block counts as a gain over 0, as it does there in the first block alone; and
    with less than n slots left those are committed, where the published code also rewrites decided ones.
    """

    n: int = 2

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"Saber(n={self.n}): n must be at least 1 slot a step")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return (Current(),)

    def init(self, canvas: Canvas, /) -> SaberState:
        zeros = torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)
        return SaberState(zeros, zeros - 1)

    def step(self, guess: Guess, window: Window, state: SaberState, /) -> tuple[Verdict, SaberState]:
        sure, pending = guess.confidence, window.pending
        above = pending & (sure > _mean_commit_confidence(state.written).unsqueeze(1))
        best = pending & (rank_slots(sure, pending).rank < self.n)
        accept = torch.where((above.sum(1) >= self.n).unsqueeze(1), above, best)
        answer = decided_slots(window) | pending
        revoke = lowest_slots(
            sure - window.take(state.last), answer & (accept | ~pending), self._count_to_revoke(accept, pending)
        )
        state = SaberState(window.put(state.last, sure, answer), window.put(state.written, sure, accept))
        return Verdict(accept, sure, revoke=revoke, hold=rows_still_pending(window, accept, revoke)), state

    def _count_to_revoke(self, accept: Tensor, pending: Tensor) -> Tensor:
        """How many (b,) to revoke of what is decided after a step."""
        written = accept.sum(1)
        count = torch.minimum(((written + 7) // 8).clamp(min=self.n // 2), written - 1)
        return torch.where((pending & ~accept).any(1), count, 0)


def _mean_commit_confidence(written: Tensor) -> Tensor:
    """Mean (b,) of the confidences with which columns were committed; 1 where none was. In double precision, in which
    sums of so few numbers are exact, so that the order in which they are added up, and with it a row's neighbours,
    cannot matter."""
    known = written >= 0
    total, count = torch.where(known, written, 0).double().sum(1), known.sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)
