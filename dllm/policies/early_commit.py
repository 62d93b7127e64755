"""Early commit: when the model has made up its mind, take the rest at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.top_k import TopK
from dllm.policies.wrapper import PolicyWrapper
from dllm.types import Canvas, Guess, Policy, State, Verdict, Window


@runtime_checkable
class Curve(Protocol):
    """How large a gap is asked for at a share (b,) in [0, 1] of the window decided."""

    def __call__(self, share: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Stairs:
    """`high` in the first third, `middle` in the second, `low` in the last. Prophet (arXiv:2508.19982), its code's
    values."""

    high: float = 7.5
    middle: float = 5.0
    low: float = 2.5

    def __call__(self, share: Tensor, /) -> Tensor:
        return torch.where(share < 0.33, self.high, torch.where(share < 0.67, self.middle, self.low))


@dataclass(frozen=True)
class Linear:
    """From `high` to `low` in a straight line. SchED (arXiv:2512.02892)."""

    high: float = 7.5
    low: float = 2.5

    def __call__(self, share: Tensor, /) -> Tensor:
        return self.low + (self.high - self.low) * (1 - share)


@dataclass(frozen=True)
class Cosine:
    """From `high` to `low` along half a cosine. SchED (arXiv:2512.02892)."""

    high: float = 7.5
    low: float = 2.5

    def __call__(self, share: Tensor, /) -> Tensor:
        return self.low + (self.high - self.low) * (1 + torch.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Exponential:
    """From `high` towards `low` by exp(-rate share). SchED (arXiv:2512.02892)."""

    high: float = 7.5
    low: float = 2.5
    rate: float = 4.0

    def __call__(self, share: Tensor, /) -> Tensor:
        return self.low + (self.high - self.low) * torch.exp(-self.rate * share)


class EarlyCommitState(NamedTuple):
    """opened (b,) int64 slots pending when the range was opened · inner the wrapped policy's own state."""

    opened: Tensor
    inner: State


@dataclass(frozen=True)
class EarlyCommit(PolicyWrapper):
    """Judge as `policy` does, until the mean logit gap of the pending slots reaches the curve; then commit them all.

    The gap is log p1 - log p2. With `Whole()` this ends the row, as published; with blocks it ends the window, and the
    next one is judged anew; a policy that edits takes nothing back in that step and gets no further one. A curve that
    stays high is `policy` alone; one that starts at 0 commits every window whole.

    policy  the rule until then
    curve   gap asked for, by share of the window decided: `Stairs` (Prophet), `Linear`, `Cosine`, `Exponential` (SchED)

    Reference: Li et al. 2025, Prophet (arXiv:2508.19982); Mohamed et al. 2025, SchED (arXiv:2512.02892). Departs from
    them: progress is the share decided, which is their share of steps at an equal number of slots a step; the gap is
    averaged over what is pending in the window, where Prophet looks at an answer behind a text that it writes itself
    and SchED's paper at the whole answer, decided or not; patience and the prediction-change gate are left out.
    """

    policy: Policy = TopK(k=1)
    curve: Curve = Stairs()

    def __post_init__(self) -> None:
        if not callable(self.curve) or isinstance(self.curve, type):
            raise ConfigError(f"{self}: curve must be Stairs(), Linear(), Cosine() or Exponential()")

    def init(self, canvas: Canvas, /) -> EarlyCommitState:
        none = torch.zeros(len(canvas.tokens), dtype=torch.int64, device=canvas.tokens.device)
        return EarlyCommitState(none, self.policy.init(canvas))

    def step(self, guess: Guess, window: Window, state: EarlyCommitState, /) -> tuple[Verdict, EarlyCommitState]:
        verdict, inner = self.policy.step(guess, window, state.inner)
        left = window.pending.sum(1)
        opened = torch.where(window.step == 0, left, torch.maximum(state.opened, left))
        tiny = torch.finfo(guess.p1.dtype).tiny
        gaps = torch.where(window.pending, (guess.p1.clamp(min=tiny) / guess.p2.clamp(min=tiny)).log(), 0)
        share = 1 - left / opened.clamp(min=1)
        certain = (gaps.sum(1) / left.clamp(min=1) >= self.curve(share)) & (left > 0)
        accept = verdict.accept | (certain.unsqueeze(1) & window.pending)
        return _finish_rows(verdict._replace(accept=accept), certain), EarlyCommitState(opened, inner)


def _finish_rows(verdict: Verdict, rows: Tensor) -> Verdict:
    """The verdict with nothing taken back and nothing awaited in these rows (b,)."""
    revoke, hold = verdict.revoke, verdict.hold
    return verdict._replace(
        revoke=None if revoke is None else revoke & ~rows.unsqueeze(1),
        hold=None if hold is None else hold & ~rows,
    )
