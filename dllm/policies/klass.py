"""KLASS: commit what is sure and has stopped to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import repeat
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.scores import Confidence, Score
from dllm.signals import Probabilities
from dllm.types import Canvas, Guess, Policy, Probe, Signal, Verdict, Window


class KlassState(NamedTuple):
    """What the last step showed.

    place  (b, t) int64     slot of the last window at which a column was predicted, -1 where it was not
    calm   (b, t) int64     steps in a row, up to the last, in which the column's marginal changed less than allowed
    last   (b, k, v) or None  the marginals of the last window's slots
    """

    place: Tensor
    calm: Tensor
    last: Tensor | None


@dataclass(frozen=True)
class KLASS(Policy):
    """Commit every pending slot whose confidence is above `tau` and whose marginal changed, in each of the last
    `history` steps, by less than `kl` nats of KL(now || before).

    Where none is, the loop commits the most confident slot. A large kl is a strict threshold from step `history` of a
    window on, and one slot a step before; kl 0 commits one slot a step.

    A change is counted between two successive steps of a row that both predicted the column while it was pending,
    whatever the cache: a window's slots are run in every step. Under a stale cache the marginals change less than they
    would with fresh ones, so the same `kl` lets more pass. The marginals of one window are kept: (b k v) numbers.

    tau      least confidence, exclusive
    kl       nats; the paper tunes it per task between 0.001 and 0.015, with tau between 0.6 and 0.9
    history  steps, 1 or more

    Reference: Kim et al. 2025, KLASS (arXiv:2511.05664), signature defaults of its `stable_confident_decode`. Departs
    from it: a change is never counted across a block's boundary, where the published code compares with the last step
    of the block before (so ours starts one step later in all blocks but the first); the fallback is one slot a step;
    and no constant is added within the logarithms, so a token that was impossible before is an infinite change.
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
        blank = torch.zeros_like(canvas.tokens)
        return KlassState(blank - 1, blank, None)

    def step(self, guess: Guess, window: Window, state: KlassState, /) -> tuple[Verdict, KlassState]:
        score = self.score(guess, window)
        place = window.take(state.place)
        small = _marginal_change(guess[Probabilities()], state.last, place) < self.kl
        calm = torch.where(small & (place >= 0) & window.pending, window.take(state.calm) + 1, 0)
        slots = torch.arange(place.shape[1], device=place.device).expand_as(place)
        blank = torch.zeros_like(state.place)
        state = KlassState(
            place=window.put(blank - 1, slots, window.pending),
            calm=window.put(blank, calm, window.pending),
            last=guess[Probabilities()],
        )
        return Verdict((calm >= self.history) & (score > self.tau) & window.pending, score), state


def _marginal_change(now: Tensor | None, last: Tensor | None, place: Tensor) -> Tensor:
    """KL(now || last) (b, k) in nats, each slot against the slot `place` (b, k) of the last window; infinite if new."""
    if now is None or last is None:
        return torch.full(place.shape, torch.inf, device=place.device)
    index = repeat(place.clamp(min=0, max=last.shape[1] - 1), "b k -> b k v", v=last.shape[2])
    before = last.gather(1, index)
    return (torch.special.xlogy(now, now) - torch.special.xlogy(now, before)).sum(-1)
