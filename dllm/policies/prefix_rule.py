"""One kernel for most published policies: sort by score, commit the longest prefix for which a predicate holds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dllm.policies.scores import Score
from dllm.types import Guess, Policy, Probe, Signal, State, Verdict, Window, mask_scores


class Ranking(NamedTuple):
    """The pending slots of each row, best score first; ties go to the leftmost.

    order      (b, k) int64  slot at each rank
    rank       (b, k) int64  rank of each slot, from 0
    candidate  (b, k) bool   ranks that hold a pending slot; they come first
    number     (1, k) int64  length of the prefix that ends at each rank, from 1
    """

    order: Tensor
    rank: Tensor
    candidate: Tensor
    number: Tensor

    def sort(self, values: Tensor) -> Tensor:
        """Values (b, k) of slots, in order of rank."""
        return values.gather(1, self.order)


def rank_slots(score: Tensor, pending: Tensor) -> Ranking:
    """Rank the pending slots (b, k) by descending score (b, k)."""
    order = mask_scores(score, pending).sort(dim=1, descending=True, stable=True).indices
    k = score.shape[1]
    places = torch.arange(k, device=score.device)
    return Ranking(
        order=order,
        rank=torch.empty_like(order).scatter_(1, order, places.expand_as(order)),
        candidate=places < pending.sum(1, keepdim=True),
        number=(places + 1).unsqueeze(0),
    )


class ScoreRule(Policy):
    """Base of the policies that look at one score and remember nothing."""

    score: Score

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return self.score.needs


class PrefixRule(ScoreRule, hooks=("holds", "count")):
    """Base of the policies that commit the longest prefix of the ranking for which `holds` stays true.

    Only the loop guarantees that at least one slot is committed; a predicate may well hold for none.
    """

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        score = self.score(guess, window)
        ranked = rank_slots(score, window.pending)
        passed = (self.holds(ranked, ranked.sort(score), guess) & ranked.candidate).long().cumprod(1)
        count = self.count(passed.sum(1), window.pending.sum(1))
        return Verdict(ranked.rank < count.unsqueeze(1), score), state

    def holds(self, ranked: Ranking, score: Tensor, guess: Guess, /) -> Tensor:
        """Whether the prefix that ends at each rank (b, k) may be committed; `score` is sorted by rank."""
        raise NotImplementedError

    def count(self, count: Tensor, pending: Tensor, /) -> Tensor:
        """Last word on how many (b,) of the `pending` (b,) slots to commit."""
        return count
