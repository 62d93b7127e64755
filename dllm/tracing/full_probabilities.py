"""A policy that also requests all probabilities, so that a trace can show the likeliest candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dllm.policies.wrapper import PolicyWrapper
from dllm.signals import Probabilities
from dllm.strategy import Strategy
from dllm.types import Canvas, Guess, Policy, Probe, Signal, State, Verdict, Window


@dataclass(frozen=True, repr=False)
class _PolicyWithProbabilities(PolicyWrapper):
    """A policy that decides as another does and has its repr, but also needs the whole marginal.

    Attributes:
        policy: The other policy.
    """

    policy: Policy

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return (*self.policy.needs, Probabilities())

    def init(self, canvas: Canvas, /) -> State:
        return self.policy.init(canvas)

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        return self.policy.step(guess, window, state)

    def __repr__(self) -> str:
        return repr(self.policy)


def request_probabilities(strategy: Any) -> Any:
    """Return the strategy such that the guess of every step has `probabilities`; any other plan as it is.

    The results do not change, and neither does the repr of the strategy, which a trace records.
    """
    if not isinstance(strategy, Strategy):
        return strategy
    return replace(strategy, policy=_PolicyWithProbabilities(strategy.policy))
