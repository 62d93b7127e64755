"""A policy that also asks for all probabilities, so that a trace can show the likeliest candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dllm.policies.wrapper import PolicyWrapper
from dllm.signals import Probabilities
from dllm.strategy import Strategy
from dllm.types import Canvas, Guess, Policy, Probe, Signal, State, Verdict, Window


@dataclass(frozen=True, repr=False)
class _PolicyWithProbabilities(PolicyWrapper):
    """Judges as `policy` does, and is recorded as it: only what is asked of the logits differs."""

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
    """The same strategy, under which a step's guess has the probabilities; any other plan as it is."""
    return (
        replace(strategy, policy=_PolicyWithProbabilities(strategy.policy))
        if isinstance(strategy, Strategy)
        else strategy
    )
