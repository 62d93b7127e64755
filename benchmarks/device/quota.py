"""A policy that fixes a given number of tokens a forward on average, whatever the model thinks.

With random weights a threshold means nothing, and every model would have another number of tokens per forward. Here
the numbers come from a seed, so that two loops, or two machines, do the same work; which slots are taken is still the
model's choice.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import rank_slots
from dllm.policies.scores import Confidence, Score
from dllm.types import Canvas, Guess, Policy, Probe, Signal, Verdict, Window

PLANNED = 64
"""Ranges that are planned; a longer text begins again with the first."""


class Place(NamedTuple):
    """State of the policy.

    Attributes:
        quotas: (ranges, size) int64, slots to take at each step of each range.
        opened: (b,) int64, ranges that each row has opened.
    """

    quotas: Tensor
    opened: Tensor


@dataclass(frozen=True)
class SeededQuota(Policy, hooks=("slot_quotas",)):
    """Take as many of the best slots at each step as a seeded plan says.

    A range of `size` slots takes size / mean forwards, rounded so that the mean holds over all ranges together; its
    slots are shared out over these at random, at least one each.

    Attributes:
        mean: Tokens a forward on average, from 1 to `size`.
        size: Slots of a range: those of a block.
        seed: Of the plan.
        score: Order of preference.
    """

    mean: float = 3.5
    size: int = 32
    seed: int = 0
    score: Score = Confidence()

    def __post_init__(self) -> None:
        if not 1 <= self.mean <= self.size:
            raise ConfigError(f"SeededQuota(mean={self.mean}, size={self.size}): mean must lie in 1..{self.size}")

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return self.score.needs

    def slot_quotas(self) -> list[list[int]]:
        """The slots to take at each step of each range; each range adds up to `size`."""
        draw = random.Random(self.seed)
        forwards = self.size / self.mean
        ends = [math.floor(i * forwards + 0.5) for i in range(PLANNED + 1)]
        ranges = []
        for begin, end in pairwise(ends):
            cuts = sorted(draw.sample(range(1, self.size), min(max(end - begin, 1), self.size) - 1))
            ranges.append([right - left for left, right in pairwise((0, *cuts, self.size))])
        return ranges

    def init(self, canvas: Canvas, /) -> Place:
        padded = [quotas + [0] * (self.size - len(quotas)) for quotas in self.slot_quotas()]
        device = canvas.tokens.device
        none = torch.zeros(len(canvas.tokens), dtype=torch.int64, device=device)
        return Place(torch.tensor(padded, device=device), none)

    def step(self, guess: Guess, window: Window, state: Place, /) -> tuple[Verdict, Place]:
        opened = state.opened + (window.step == 0)
        place = (opened - 1).clamp(min=0) % PLANNED
        quota = state.quotas[place, window.step.clamp(max=self.size - 1)]
        score = self.score(guess, window)
        accept = (rank_slots(score, window.pending).rank < quota.unsqueeze(1)) & window.pending
        return Verdict(accept, score), state._replace(opened=opened)
