"""Saber: accelerate where the model was confident so far, and take back what it has become less confident of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import rank_slots
from dllm.policies.revising import RevisingPolicy, decided_slots, lowest_slots, rows_still_pending
from dllm.signals import Current
from dllm.types import Canvas, Guess, Probe, Signal, Verdict, Window


class SaberState(NamedTuple):
    """Confidences of each column so far.

    Attributes:
        last: Confidence of its candidate in the last step that predicted it, decided or not; 0 before.
        written: Confidence with which it was last committed, also if it was revoked since; -1 where it never was.
    """

    last: Float[Tensor, "b t"]
    written: Float[Tensor, "b t"]


@dataclass(frozen=True)
class Saber(RevisingPolicy):
    """Commit every pending slot above the mean confidence of the row's commits; then revoke those that lost confidence.

    At least the best `n` slots are committed. The slots that are revoked are those decided ones whose candidate lost
    most confidence since the step before. A step that commits w slots revokes

        min(max(⌊n/2⌋, ⌈w/8⌉), w - 1)

    of them, the slots that it has just committed included, but none once nothing is pending in the window. So every
    step leaves at least one slot more decided, and a range takes no more steps than it has columns. An n of the
    window's size commits it at once.

    Attributes:
        n: Slots, 1 or more; published with 2.

    References:
        Dong et al. 2025, Saber (arXiv:2510.18165), `generate_with_saber` of its repository.

    Departures:
        Only slots of the window are revoked, while the published code revokes any of the answer; the two are the same
        with `Whole`, as published. A column's first confidence in a later block counts as a gain over 0, as it does in
        the published code in the first block alone. With less than n slots left those are committed, while the
        published code also rewrites decided ones.
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
        confidence, pending = guess.confidence, window.pending
        above = pending & (confidence > _mean_commit_confidence(state.written).unsqueeze(1))
        best = pending & (rank_slots(confidence, pending).rank < self.n)
        accept = torch.where((above.sum(1) >= self.n).unsqueeze(1), above, best)
        answer = decided_slots(window) | pending
        gain = confidence - window.take(state.last)
        revoke = lowest_slots(gain, answer & (accept | ~pending), self._count_to_revoke(accept, pending))
        state = SaberState(window.put(state.last, confidence, answer), window.put(state.written, confidence, accept))
        return Verdict(accept, confidence, revoke=revoke, hold=rows_still_pending(window, accept, revoke)), state

    def _count_to_revoke(self, accept: Bool[Tensor, "b k"], pending: Bool[Tensor, "b k"]) -> Int[Tensor, " b"]:
        """Count how many decided slots of each row to revoke after a step."""
        written = accept.sum(1)
        count = torch.minimum(((written + 7) // 8).clamp(min=self.n // 2), written - 1)
        return torch.where((pending & ~accept).any(1), count, 0)


def _mean_commit_confidence(written: Float[Tensor, "b t"]) -> Float64[Tensor, " b"]:
    """Compute the mean confidence with which a row's columns were committed; 1 where none was.

    In double precision sums of so few numbers are exact, so that the order in which they are added up, and with it a
    row's neighbours, cannot matter.
    """
    known = written >= 0
    total, count = torch.where(known, written, 0).double().sum(1), known.sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), 1.0)
