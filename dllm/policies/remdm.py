"""ReMDM: follow a diffusion time, and mask decided tokens again at random without changing how much is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.revising import RevisingPolicy, decided_slots
from dllm.signals import Current, Noise
from dllm.types import Canvas, Guess, Probe, Signal, Verdict, Window


def _check_eta(eta: float, remask: object) -> None:
    """Raise ConfigError for an eta that is no share of a probability."""
    if not 0 <= eta <= 1:
        raise ConfigError(f"{remask}: eta must lie in 0..1; 0 takes nothing back")


@dataclass(frozen=True)
class Capped:
    """A decided slot is masked again with probability min(eta, the largest allowed). "ReMDM-cap".

    Attributes:
        eta: Cap, in 0..1; published with 0.008 or, at few steps, 0.04.
    """

    eta: float = 0.008

    def __post_init__(self) -> None:
        _check_eta(self.eta, self)

    @property
    def revokes(self) -> bool:
        """Tell whether anything is ever masked again."""
        return self.eta > 0

    def sigma(self, most: Float[Tensor, "b 1"], window: Window, psi: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Compute the probability with which each decided slot is masked again.

        Args:
            most: Largest probability that is allowed.
            window: The window.
            psi: Confidence with which each slot was committed.
        """
        return most.clamp(max=self.eta).expand(psi.shape)


@dataclass(frozen=True)
class Rescaled:
    """A decided slot is masked again with probability eta times the largest allowed. "ReMDM-rescale".

    Attributes:
        eta: Factor, in 0..1; published with 0.015.
    """

    eta: float = 0.015

    def __post_init__(self) -> None:
        _check_eta(self.eta, self)

    @property
    def revokes(self) -> bool:
        """Tell whether anything is ever masked again."""
        return self.eta > 0

    def sigma(self, most: Float[Tensor, "b 1"], window: Window, psi: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Compute the probability with which each decided slot is masked again, as in `Capped.sigma`."""
        return (self.eta * most).expand(psi.shape)


@dataclass(frozen=True)
class ByConfidence:
    """The largest allowed probability is shared out among the decided slots by softmax(-psi). "ReMDM-conf".

    Here psi is the confidence with which a slot was committed.

    At most one slot a step is masked again on average. Pending slots are committed with the probability that holds if
    nothing is masked again, as published, so that less is decided than alpha(t).
    """

    revokes: ClassVar[bool] = True

    def sigma(self, most: Float[Tensor, "b 1"], window: Window, psi: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Compute the probability with which each decided slot is masked again, as in `Capped.sigma`."""
        decided = decided_slots(window)
        # Double precision, so that the order in which a row's weights are added up, and with it its padding, does not
        # show. The clamp serves rows in which nothing is decided.
        weight = torch.where(decided, (-psi.double()).exp(), 0)
        return (most * weight / weight.sum(1, keepdim=True).clamp(min=1e-300)).to(psi.dtype)


Remasking = Capped | Rescaled | ByConfidence


@dataclass(frozen=True)
class RemaskLoop:
    """First decide a share `alpha_on` as usual, then mask again and decide as many, and at last decide the rest.

    Time t goes from 1 to 0. The share decided at time t is

        alpha(t) = alpha_on (1 - t) / (1 - t_on)      for t > t_on
                   alpha_on                           for t_off < t <= t_on
                   1 - (1 - alpha_on) t / t_off       for t <= t_off

    Only between t_on and t_off is anything masked again. "ReMDM-loop".

    Attributes:
        t_on: Time at which the loop begins.
        t_off: Time at which it ends, between 0 and t_on.
        alpha_on: Share decided during the loop, between 0 and 1.
    """

    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9

    def __post_init__(self) -> None:
        if not (0 < self.t_off < self.t_on < 1 and 0 < self.alpha_on < 1):
            raise ConfigError(f"{self}: must be 0 < t_off < t_on < 1, and alpha_on between 0 and 1")

    def alpha(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Compute the share decided at time t."""
        before, after = self.alpha_on * (1 - t) / (1 - self.t_on), 1 - (1 - self.alpha_on) * t / self.t_off
        return torch.where(t > self.t_on, before, torch.where(t > self.t_off, self.alpha_on, after))

    def runs(self, t: Float[Tensor, "..."], s: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """Tell whether the step from t to s lies in the loop."""
        return (t <= self.t_on) & (s >= self.t_off)


@dataclass(frozen=True)
class ReMDM(RevisingPolicy):
    """Commit pending slots and revoke decided ones at random, such that a share alpha(t) is decided at time t.

    When time goes from t to s, a decided slot is revoked with probability sigma, and a pending one committed with
    probability

        c = (alpha(s) - (1 - sigma) alpha(t)) / (1 - alpha(t)),   sigma <= min(1, (1 - alpha(s)) / alpha(t)).

    The limit on sigma keeps c within [0, 1], and alpha(t) (1 - sigma) + (1 - alpha(t)) c = alpha(s): the share decided
    does not depend on sigma. Without a loop alpha(t) = 1 - t. An eta of 0 is Dream's "origin", which commits each
    pending slot with probability 1 - s/t.

    A range takes exactly `steps` forwards, or with an eta of 0 at most that many. A step may commit nothing, and the
    last one commits all that is left.

    Attributes:
        steps: Steps per range of columns, 1 or more. More steps than columns are meant to improve the text.
        remask: Choice of sigma: `Capped`, `Rescaled` or `ByConfidence`.
        loop: Part of the time in which slots are masked again. None: always.
        eps: Time at which the last step ends, between 0 and 1.

    References:
        Wang et al. 2025, ReMDM (arXiv:2503.00307), `_ddpm_caching_update` of its repository as copied by others.

    Departures:
        What is left at time eps is committed by the last step instead of a forward of its own. The loop's alpha is one
        continuous curve, where the published code oversteps it for one step at either end. Candidates come from the
        strategy's sampling (temperature 1, and top_p 0.9, as published).
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

    def bound(self, columns: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        return torch.full_like(columns, self.steps)

    def init(self, canvas: Canvas, /) -> Float[Tensor, "b t"]:
        """Make the state: the candidate's confidence in the last step in which a column was pending.

        For a decided column that is the confidence with which it was committed.
        """
        return torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)

    def step(
        self, guess: Guess, window: Window, state: Float[Tensor, "b t"], /
    ) -> tuple[Verdict, Float[Tensor, "b t"]]:
        now, then, sigma = self._step_chances(window, window.take(state))
        commit = (then - (1 - sigma) * now) / (1 - now)
        last = (window.step >= self.steps - 1).unsqueeze(1)
        # One random number serves both comparisons: a slot is either pending or decided, so it is used once.
        accept = window.pending & ((guess[Noise()] < commit) | last)
        revoke = decided_slots(window) & (guess[Noise()] < sigma) & ~last
        state = window.put(state, guess.confidence, window.pending)
        # Until the last step nothing is forced, and a row in which all is decided stays: it may still lose a token.
        rest = ~last.squeeze(1)
        hold = rest & window.valid.any(1) & self.remask.revokes
        return Verdict(accept, -guess[Noise()], rest, revoke, hold), state

    def _step_chances(
        self, window: Window, psi: Float[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b 1"], Float[Tensor, "b 1"], Float[Tensor, "b k"]]:
        """Compute the share decided before the step and after it, and the probability sigma."""
        times = torch.linspace(1, self.eps, self.steps + 1, device=psi.device)
        step = window.step.clamp(max=self.steps - 1).unsqueeze(1)
        t, s = times[step], times[step + 1]
        now, then = (1 - t, 1 - s) if self.loop is None else (self.loop.alpha(t), self.loop.alpha(s))
        # In the first step nothing is decided and `now` is 0: any sigma will do, and the clamp keeps it finite.
        most = ((1 - then) / now.clamp(min=1e-9)).clamp(max=1)
        if self.loop is not None:
            most = torch.where(self.loop.runs(t, s), most, 0)
        return now, then, self.remask.sigma(most, window, psi)
