"""Early commit: once the model is certain enough on average, commit everything that is left."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.top_k import TopK
from dllm.policies.wrapper import PolicyWrapper
from dllm.types import Canvas, Guess, Policy, State, Verdict, Window


@runtime_checkable
class Curve(Protocol):
    """The logit gap that is required, as a function of the share of the window that is decided."""

    def __call__(self, share: Float[Tensor, " b"], /) -> Float[Tensor, " b"]:
        """Compute the required gap at each share in [0, 1]."""
        ...


@dataclass(frozen=True)
class Stairs:
    """A curve of three steps, at a share of 0.33 and at one of 0.67.

    Attributes:
        high: Gap required in the first third.
        middle: Gap required in the second third.
        low: Gap required in the last third.

    References:
        Prophet (arXiv:2508.19982), with the values of its code.
    """

    high: float = 7.5
    middle: float = 5.0
    low: float = 2.5

    def __call__(self, share: Float[Tensor, " b"], /) -> Float[Tensor, " b"]:
        return torch.where(share < 0.33, self.high, torch.where(share < 0.67, self.middle, self.low))


@dataclass(frozen=True)
class Linear:
    """A straight line: low + (high - low) (1 - share).

    Attributes:
        high: Gap required at a share of 0.
        low: Gap required at a share of 1.

    References:
        SchED (arXiv:2512.02892).
    """

    high: float = 7.5
    low: float = 2.5

    def __call__(self, share: Float[Tensor, " b"], /) -> Float[Tensor, " b"]:
        return self.low + (self.high - self.low) * (1 - share)


@dataclass(frozen=True)
class Cosine:
    """Half a period of a cosine: low + (high - low) (1 + cos(π share)) / 2.

    Attributes:
        high: Gap required at a share of 0.
        low: Gap required at a share of 1.

    References:
        SchED (arXiv:2512.02892).
    """

    high: float = 7.5
    low: float = 2.5

    def __call__(self, share: Float[Tensor, " b"], /) -> Float[Tensor, " b"]:
        return self.low + (self.high - self.low) * (1 + torch.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Exponential:
    """An exponential decay: low + (high - low) exp(-rate share).

    Attributes:
        high: Gap required at a share of 0.
        low: Gap that the curve approaches.
        rate: Speed of the decay.

    References:
        SchED (arXiv:2512.02892).
    """

    high: float = 7.5
    low: float = 2.5
    rate: float = 4.0

    def __call__(self, share: Float[Tensor, " b"], /) -> Float[Tensor, " b"]:
        return self.low + (self.high - self.low) * torch.exp(-self.rate * share)


class EarlyCommitState(NamedTuple):
    """State of `EarlyCommit`.

    Attributes:
        opened: Most slots that were pending at once since the range was opened.
        inner: State of the wrapped policy.
    """

    opened: Int[Tensor, " b"]
    inner: State


@dataclass(frozen=True)
class EarlyCommit(PolicyWrapper):
    """The judgement of `policy`, until the mean logit gap of the pending slots reaches the curve; then commit them all.

    The gap of a slot is log p1 - log p2. With `Whole()` the commit ends the row, as published; with blocks it ends the
    window, and the next one is judged anew. A policy that edits takes nothing back in that step and gets no further
    one. A curve that stays high leaves `policy` alone; one that starts at 0 commits every window whole.

    Attributes:
        policy: The rule until then.
        curve: Gap that is required, by share of the window decided: `Stairs` (Prophet), or `Linear`, `Cosine` and
            `Exponential` (SchED).

    References:
        Li et al. 2025, Prophet (arXiv:2508.19982); Mohamed et al. 2025, SchED (arXiv:2512.02892).

    Departures:
        Progress is the share of slots decided, which equals their share of steps at an equal number of slots a step.
        The gap is averaged over what is pending in the window, while Prophet looks at an answer behind a text that it
        writes itself, and SchED's paper at the whole answer, decided or not. Patience and the prediction-change gate
        are left out.
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
        # A policy that revokes can make more slots pending than at first; the share decided must not become negative.
        opened = torch.where(window.step == 0, left, torch.maximum(state.opened, left))
        tiny = torch.finfo(guess.p1.dtype).tiny
        gaps = torch.where(window.pending, (guess.p1.clamp(min=tiny) / guess.p2.clamp(min=tiny)).log(), 0)
        share = 1 - left / opened.clamp(min=1)
        certain = (gaps.sum(1) / left.clamp(min=1) >= self.curve(share)) & (left > 0)
        accept = verdict.accept | (certain.unsqueeze(1) & window.pending)
        return _finish_rows(verdict._replace(accept=accept), certain), EarlyCommitState(opened, inner)


def _finish_rows(verdict: Verdict, rows: Bool[Tensor, " b"]) -> Verdict:
    """Change a verdict so that in these rows nothing is revoked and no further step is requested."""
    revoke, hold = verdict.revoke, verdict.hold
    return verdict._replace(
        revoke=None if revoke is None else revoke & ~rows.unsqueeze(1),
        hold=None if hold is None else hold & ~rows,
    )
