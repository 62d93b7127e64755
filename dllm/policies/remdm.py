"""ReMDM: follow a diffusion time, and mask decided tokens again at random without changing how much is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.revising import RevisingPolicy, decided_slots
from dllm.signals import Current, Noise
from dllm.types import Canvas, Guess, Probe, Signal, Verdict, Window


def _check_eta(eta: float, remask: object) -> None:
    if not 0 <= eta <= 1:
        raise ConfigError(f"{remask}: eta must lie in 0..1; 0 takes nothing back")


@dataclass(frozen=True)
class Capped:
    """A decided slot is masked again with probability min(eta, most). "ReMDM-cap"; eta 0.008 or, at few steps, 0.04."""

    eta: float = 0.008

    def __post_init__(self) -> None:
        _check_eta(self.eta, self)

    @property
    def revokes(self) -> bool:
        """Whether anything is ever masked again."""
        return self.eta > 0

    def sigma(self, most: Tensor, window: Window, psi: Tensor) -> Tensor:
        """Probability (b, k), given the largest that is allowed (b, 1)."""
        return most.clamp(max=self.eta).expand(psi.shape)


@dataclass(frozen=True)
class Rescaled:
    """A decided slot is masked again with probability eta times the largest allowed. "ReMDM-rescale"; eta 0.015."""

    eta: float = 0.015

    def __post_init__(self) -> None:
        _check_eta(self.eta, self)

    @property
    def revokes(self) -> bool:
        """Whether anything is ever masked again."""
        return self.eta > 0

    def sigma(self, most: Tensor, window: Window, psi: Tensor) -> Tensor:
        return (self.eta * most).expand(psi.shape)


@dataclass(frozen=True)
class ByConfidence:
    """The largest allowed probability, shared out among the decided slots by softmax(-psi), where psi is the confidence
    with which a slot was committed. "ReMDM-conf".

    At most one slot a step on average. Pending slots are committed as if nothing was masked again, as published, so
    that less is decided than the time says.
    """

    revokes: ClassVar[bool] = True

    def sigma(self, most: Tensor, window: Window, psi: Tensor) -> Tensor:
        here = decided_slots(window)
        weight = torch.where(here, (-psi.double()).exp(), 0)
        return (most * weight / weight.sum(1, keepdim=True).clamp(min=1e-300)).to(psi.dtype)


Remasking = Capped | Rescaled | ByConfidence


@dataclass(frozen=True)
class RemaskLoop:
    """First decide a share `alpha_on` as usual, then mask again and decide as many, and at last decide the rest.

    Time goes from 1 to 0; decided are alpha_on (1 - t) / (1 - t_on) before t_on, alpha_on until t_off, then all but
    (1 - alpha_on) t / t_off. Only between t_on and t_off is anything masked again. "ReMDM-loop".
    """

    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9

    def __post_init__(self) -> None:
        if not (0 < self.t_off < self.t_on < 1 and 0 < self.alpha_on < 1):
            raise ConfigError(f"{self}: must be 0 < t_off < t_on < 1, and alpha_on between 0 and 1")

    def alpha(self, t: Tensor) -> Tensor:
        before, after = self.alpha_on * (1 - t) / (1 - self.t_on), 1 - (1 - self.alpha_on) * t / self.t_off
        return torch.where(t > self.t_on, before, torch.where(t > self.t_off, self.alpha_on, after))

    def runs(self, t: Tensor, s: Tensor) -> Tensor:
        """Whether the step from t to s lies in the loop."""
        return (t <= self.t_on) & (s >= self.t_off)


@dataclass(frozen=True)
class ReMDM(RevisingPolicy):
    """In every step commit each pending slot with one probability and revoke each decided one with another, such that a
    share alpha(t) is decided at time t, however much is revoked.

    When time goes from t to s, a decided slot is revoked with probability sigma, and a pending one committed with
    (alpha(s) - (1 - sigma) alpha(t)) / (1 - alpha(t)); sigma <= min(1, (1 - alpha(s)) / alpha(t)) keeps that within
    [0, 1], and alpha(t) (1 - sigma) + (1 - alpha(t)) (that) = alpha(s), whatever sigma is. alpha(t) = 1 - t without a
    loop. eta 0 is Dream's "origin": each pending slot with probability 1 - s/t.

    A range takes exactly `steps` forwards, or with eta 0 at most; a step may commit nothing, and the last one commits
    all that is left.

    steps   per range of columns, 1 or more; more than columns are meant to improve the text
    remask  sigma: `Capped`, `Rescaled` or `ByConfidence`
    loop    when to mask again; None: always
    eps     time at which the last step ends

    Reference: Wang et al. 2025, ReMDM (arXiv:2503.00307), `_ddpm_caching_update` of its repository as copied by others.
    Departs from it: what is left at time eps is committed by the last step instead of a forward of its own; the loop's
    alpha is one continuous curve, where the published code oversteps it for one step at either end; candidates come
    from the strategy's sampling (temperature 1, and top_p 0.9, as published).
    """

    steps: int = 128
    remask: Remasking = Capped()
    loop: RemaskLoop | None = None
    eps: float = 1e-5

    rests: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"ReMDM(steps={self.steps}): steps must be at least 1")
        if not 0 < self.eps < 1:
            raise ConfigError(f"ReMDM(eps={self.eps}): eps must lie between 0 and 1")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return (Current(), Noise())

    def bound(self, columns: Tensor, /) -> Tensor:
        return torch.full_like(columns, self.steps)

    def init(self, canvas: Canvas, /) -> Tensor:
        """The candidate's confidence (b, t) in the last step in which a column was pending: that of its commit."""
        return torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)

    def step(self, guess: Guess, window: Window, state: Tensor, /) -> tuple[Verdict, Tensor]:
        now, then, sigma = self._step_chances(window, window.take(state))
        commit = (then - (1 - sigma) * now) / (1 - now)
        last = (window.step >= self.steps - 1).unsqueeze(1)
        accept = window.pending & ((guess[Noise()] < commit) | last)
        revoke = decided_slots(window) & (guess[Noise()] < sigma) & ~last
        state = window.put(state, guess.confidence, window.pending)
        rest = ~last.squeeze(1)
        hold = rest & window.valid.any(1) & (self.remask.revokes)
        return Verdict(accept, -guess[Noise()], rest, revoke, hold), state

    def _step_chances(self, window: Window, psi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Share decided before and after the step (b, 1), and the probability sigma (b, k)."""
        times = torch.linspace(1, self.eps, self.steps + 1, device=psi.device)
        step = window.step.clamp(max=self.steps - 1).unsqueeze(1)
        t, s = times[step], times[step + 1]
        now, then = (1 - t, 1 - s) if self.loop is None else (self.loop.alpha(t), self.loop.alpha(s))
        most = ((1 - then) / now.clamp(min=1e-9)).clamp(max=1)
        if self.loop is not None:
            most = torch.where(self.loop.runs(t, s), most, 0)
        return now, then, self.remask.sigma(most, window, psi)
