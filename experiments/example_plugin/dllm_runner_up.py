"""Policies that look at the runner-up: one by a signal of its own, and one that writes it instead of the candidate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dllm.signals import SecondToken
from dllm.types import Guess, LogitScale, Policy, Signal, State, Verdict, Where, Window


@dataclass(frozen=True)
class LogitGap(Signal):
    """Log-odds of the likeliest token against the runner-up, in nats; the mask token aside."""

    def compute(self, logits: Tensor, where: Where, scale: LogitScale, /) -> Tensor:
        if where.mask_id is not None:
            logits = logits.index_fill(1, torch.tensor([where.mask_id], device=logits.device), -torch.inf)
        first, second = logits.topk(2).values.unbind(1)
        return first - second


@dataclass(frozen=True)
class SignalThreshold(Policy):
    """Commit every pending slot whose signal is at least `least`, the largest first where none is."""

    least: float = 2.0
    signal: Signal = LogitGap()

    @property
    def needs(self) -> tuple[Signal, ...]:
        return (self.signal,)

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        value = guess[self.signal]
        return Verdict(value >= self.least, value), state


@dataclass(frozen=True)
class NoEcho(Policy):
    """Commit confident slots; of two neighbours that would be written alike in one step the right takes its runner-up.

    Neighbours are predicted without each other, so that parallel decoding tends to write a word twice.
    """

    tau: float = 0.9

    needs: ClassVar[tuple[Signal, ...]] = (SecondToken(),)
    chooses_tokens: ClassVar[bool] = True

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        accept = (guess.confidence >= self.tau) & window.pending
        echo = torch.zeros_like(accept)
        echo[:, 1:] = accept[:, 1:] & accept[:, :-1] & (guess.tokens[:, 1:] == guess.tokens[:, :-1])
        tokens = torch.where(echo, guess[SecondToken()], guess.tokens)
        return Verdict(accept, guess.confidence, tokens=tokens), state
