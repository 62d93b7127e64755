"""Scores: how much a policy prefers to commit a slot. The rules that choose slots by them are in files of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from dllm.signals import Entropy, Noise
from dllm.types import Guess, Probe, Signal, Window


@runtime_checkable
class Score(Protocol):
    """A number per slot; the slot with the largest one is committed first."""

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        """Name the signals and probes that the score reads from the guess."""
        ...

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        """Compute the score of every slot."""
        ...


@dataclass(frozen=True)
class Confidence:
    """Probability of the candidate, in [0, 1]. LLaDA's "low_confidence", Dream's "maskgit_plus"."""

    needs: ClassVar[tuple[Signal | Probe, ...]] = ()

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        return guess.confidence


@dataclass(frozen=True)
class Peak:
    """Largest probability, in [0, 1], whatever was drawn; the same as `Confidence` when candidates are the arg-max."""

    needs: ClassVar[tuple[Signal | Probe, ...]] = ()

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        return guess.p1


@dataclass(frozen=True)
class Margin:
    """Largest minus second largest probability, in [0, 1]. Dream's "topk_margin"."""

    needs: ClassVar[tuple[Signal | Probe, ...]] = ()

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        return guess.p1 - guess.p2


@dataclass(frozen=True)
class NegativeEntropy:
    """Minus the marginal's entropy in nats, at most 0. Dream's "entropy"."""

    needs: ClassVar[tuple[Signal | Probe, ...]] = (Entropy(),)

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        return -guess[Entropy()]


@dataclass(frozen=True)
class Random:
    """A uniform number from the row's own seed. LLaDA's "random"."""

    needs: ClassVar[tuple[Signal | Probe, ...]] = (Noise(),)

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        return guess[Noise()]


@dataclass(frozen=True)
class LeftToRight:
    """Minus the column, so that earlier columns come first. SDAR's "sequential"."""

    needs: ClassVar[tuple[Signal | Probe, ...]] = ()

    def __call__(self, guess: Guess, window: Window, /) -> Float[Tensor, "b k"]:
        return -window.columns.float()
