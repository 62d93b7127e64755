"""Scores: how much a policy prefers to commit a slot. Rules (which slots then pass) live apart from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from dllm.types import Guess, Signal, Window


class Score(Protocol):
    """A number per slot, larger is earlier."""

    @property
    def needs(self) -> Signal: ...

    def __call__(self, guess: Guess, window: Window, /) -> Tensor: ...


@dataclass(frozen=True)
class Confidence:
    """Probability of the candidate, in [0, 1]. LLaDA's "low_confidence", Dream's "maskgit_plus"."""

    needs: ClassVar[Signal] = Signal.NONE

    def __call__(self, guess: Guess, window: Window, /) -> Tensor:
        return guess.confidence


@dataclass(frozen=True)
class Peak:
    """Largest probability, in [0, 1], whatever was drawn: the same as `Confidence` when candidates are the arg-max."""

    needs: ClassVar[Signal] = Signal.NONE

    def __call__(self, guess: Guess, window: Window, /) -> Tensor:
        return guess.p1


@dataclass(frozen=True)
class Margin:
    """Largest minus second largest probability, in [0, 1]. Dream's "topk_margin"."""

    needs: ClassVar[Signal] = Signal.NONE

    def __call__(self, guess: Guess, window: Window, /) -> Tensor:
        return guess.p1 - guess.p2


@dataclass(frozen=True)
class NegativeEntropy:
    """Minus the marginal's entropy in nats, at most 0. Dream's "entropy"."""

    needs: ClassVar[Signal] = Signal.ENTROPY

    def __call__(self, guess: Guess, window: Window, /) -> Tensor:
        assert guess.entropy is not None
        return -guess.entropy


@dataclass(frozen=True)
class Random:
    """A uniform number from the row's own seed. LLaDA's "random"."""

    needs: ClassVar[Signal] = Signal.NOISE

    def __call__(self, guess: Guess, window: Window, /) -> Tensor:
        assert guess.noise is not None
        return guess.noise


@dataclass(frozen=True)
class LeftToRight:
    """Earlier columns first. SDAR's "sequential"."""

    needs: ClassVar[Signal] = Signal.NONE

    def __call__(self, guess: Guess, window: Window, /) -> Tensor:
        return -window.columns.float()
