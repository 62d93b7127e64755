"""KLASS: commit slots whose prediction is confident and no longer changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from dllm import theory
from dllm.errors import ConfigError
from dllm.policies.scores import Confidence, Score
from dllm.signals import Probabilities
from dllm.types import Canvas, Guess, Policy, Probe, Signal, Verdict, Window


class KlassState(NamedTuple):
    """Predictions of the last step.

    Attributes:
        place: Slot of the last window at which a column was predicted; -1 where it was not.
        stable: Number of steps in a row, up to the last, in which the column's marginal changed less than allowed.
        marginals: Marginals of the last window's slots. None before the first step.
    """

    place: Int[Tensor, "b t"]
    stable: Int[Tensor, "b t"]
    marginals: Float[Tensor, "b k v"] | None


@dataclass(frozen=True)
class KLASS(Policy):
    """Commit every confident pending slot whose marginal changed little in each of the last `history` steps.

    A slot is confident if its score is above `tau`; its marginal changed little in a step if

        KL(marginal now || marginal one step before) < kl.

    Where no slot is both, the loop commits the one of highest score. A large kl is a strict threshold from step
    `history` of a window on, and one slot a step before; a kl of 0 commits one slot a step.

    A change is counted between two successive steps of a row that both predicted the column while it was pending,
    whatever the cache: the slots of a window are run in every step. Under a stale cache the marginals change less than
    fresh ones would, so the same `kl` accepts more. The marginals of one window are kept: (b k v) numbers.

    Attributes:
        tau: Least score, exclusive.
        kl: Nats, exclusive. The paper tunes it per task between 0.001 and 0.015, with tau between 0.6 and 0.9.
        history: Steps, 1 or more.
        score: Preference of each slot.

    References:
        Kim et al. 2025, KLASS (arXiv:2511.05664), signature defaults of its `stable_confident_decode`.

    Departures:
        A change is never counted across a block's boundary, while the published code compares with the last step of the
        block before; so ours starts one step later in all blocks but the first. The fallback is one slot a step. No
        constant is added within the logarithms, so a token that was impossible before is an infinite change.
    """

    tau: float = 0.9
    kl: float = 0.01
    history: int = 2
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not self.tau >= 0 or not 0 <= self.kl < float("inf"):
            raise ConfigError(f"{self}: tau and kl must be 0 or more; a large kl leaves the threshold alone")
        if self.history < 1:
            raise ConfigError(f"{self}: history must be at least 1 step; without one use Threshold(tau, strict=True)")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return (*self.score.needs, Probabilities())

    def init(self, canvas: Canvas, /) -> KlassState:
        zeros = torch.zeros_like(canvas.tokens)
        return KlassState(zeros - 1, zeros, None)

    def step(self, guess: Guess, window: Window, state: KlassState, /) -> tuple[Verdict, KlassState]:
        score, marginals = self.score(guess, window), guess[Probabilities()]
        place = window.take(state.place)
        small = _marginal_change(marginals, state.marginals, place) < self.kl
        stable = torch.where(small & (place >= 0) & window.pending, window.take(state.stable) + 1, 0)
        slots = torch.arange(place.shape[1], device=place.device).expand_as(place)
        # Both planes start from blank: a column that this step did not predict has to be counted anew.
        zeros = torch.zeros_like(state.place)
        state = KlassState(
            place=window.put(zeros - 1, slots, window.pending),
            stable=window.put(zeros, stable, window.pending),
            marginals=marginals,
        )
        return Verdict((stable >= self.history) & (score > self.tau) & window.pending, score), state


def _marginal_change(
    now: Float[Tensor, "b k v"], last: Float[Tensor, "b m v"] | None, place: Int[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """Compute KL(now || last) in nats, each slot against the slot `place` of the last window; infinite without one."""
    if last is None:
        return torch.full(place.shape, torch.inf, device=place.device)
    # The windows may differ in width. Slots that were not predicted (-1) are compared with slot 0, and masked later.
    index = repeat(place.clamp(min=0, max=last.shape[1] - 1), "b k -> b k v", v=last.shape[2])
    return theory.kl_divergence(now, last.gather(1, index), n=1)
