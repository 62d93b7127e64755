"""A part that breaks its contract is named, with what it gave and what it should give."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import dllm
from dllm import Blocks, ConfigError, NoCache, Request, Strategy
from dllm.types import Policy, Signal, Verdict
from tests.tiny import tiny_model


@dataclass(frozen=True)
class Mean(Signal):
    """One number for all slots."""

    def compute(self, logits: Any, where: Any, scale: Any, /) -> Any:
        return logits.sum()


@dataclass(frozen=True)
class Number(Signal):
    """No tensor."""

    def compute(self, logits: Any, where: Any, scale: Any, /) -> Any:
        return 1.0


@dataclass(frozen=True)
class Whole(Signal):
    """Right: one value for each slot, none for none."""

    def compute(self, logits: Any, where: Any, scale: Any, /) -> Any:
        return torch.ones(len(logits))


@dataclass(frozen=True)
class Asks(Policy):
    """Reads the signal that it is given."""

    signal: Signal

    @property
    def needs(self) -> tuple[Signal, ...]:
        return (self.signal,)

    def step(self, guess: Any, window: Any, state: Any, /) -> Any:
        return Verdict(guess[self.signal] > 0, guess.confidence), state


@dataclass(frozen=True)
class AsksWithoutTuple(Policy):
    """Forgets the comma."""

    needs: ClassVar[Any] = Whole()


@dataclass(frozen=True)
class NoVerdict(Policy):
    """Returns what it accepts alone."""

    def step(self, guess: Any, window: Any, state: Any, /) -> Any:
        return guess.confidence > 0, state


def decode(policy: Policy) -> list[dllm.Step]:
    strategy = Strategy(policy, Blocks(4), NoCache())
    return list(dllm.steps(tiny_model("bidirectional"), [Request((3, 7), max_new_tokens=4)], strategy))


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Asks(Mean()), "Mean().compute gave a tensor of shape () for "),
        (Asks(Number()), "Number().compute gave float for "),
        (NoVerdict(), "the policy's step gave (Tensor, state): return (Verdict(accept, score), state)"),
    ],
)
def test_what_a_part_gives_is_checked(policy: Policy, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        decode(policy)


def test_needs_are_checked_when_the_strategy_is_made() -> None:
    with pytest.raises(ConfigError, match=re.escape("AsksWithoutTuple().needs is Whole(): give a tuple")):
        Strategy(AsksWithoutTuple(), Blocks(4), NoCache())


def test_a_right_part_decodes() -> None:
    assert len(decode(Asks(Whole()))) == 1
