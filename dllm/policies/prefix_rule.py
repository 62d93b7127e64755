"""One kernel for most published policies: sort by score, commit the longest prefix for which a predicate holds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dllm.policies.scores import Score
from dllm.types import Guess, Policy, Probe, Signal, State, Verdict, Window, mask_scores


class Ranking(NamedTuple):
    """The pending slots of each row, best score first; ties go to the leftmost.

    Attributes:
        order: Slot at each rank.
        rank: Rank of each slot, from 0.
        candidate: Ranks that hold a pending slot; they come first.
        number: Length of the prefix that ends at each rank, from 1.
    """

    order: Int[Tensor, "b k"]
    rank: Int[Tensor, "b k"]
    candidate: Bool[Tensor, "b k"]
    number: Int[Tensor, "1 k"]

    def sort(self, values: Shaped[Tensor, "b k"]) -> Shaped[Tensor, "b k"]:
        """Bring the values of slots into the order of rank."""
        return values.gather(1, self.order)


def rank_slots(score: Float[Tensor, "b k"], pending: Bool[Tensor, "b k"]) -> Ranking:
    """Rank the pending slots by descending score."""
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
    """Base of the policies that read one score and nothing else.

    Attributes:
        score: Preference of each slot.
    """

    score: Score

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return self.score.needs


class PrefixRule(ScoreRule, hooks=("holds", "count")):
    """Base of the policies that commit the longest prefix of the ranking for which `holds` stays true.

    The predicate may hold for no prefix at all: the loop guarantees that at least one slot is committed.
    """

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        score = self.score(guess, window)
        ranked = rank_slots(score, window.pending)
        passed = (self.holds(ranked, ranked.sort(score), guess) & ranked.candidate).long().cumprod(1)
        count = self.count(passed.sum(1), window.pending.sum(1))
        return Verdict(ranked.rank < count.unsqueeze(1), score), state

    def holds(self, ranked: Ranking, score: Float[Tensor, "b k"], guess: Guess, /) -> Bool[Tensor, "b k"]:
        """Decide for each rank whether the prefix that ends there may be committed.

        Args:
            ranked: The ranking; `ranked.sort` brings other values into its order.
            score: Scores in order of rank.
            guess: Predictions, in order of slots.
        """
        raise NotImplementedError

    def count(self, count: Int[Tensor, " b"], pending: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        """Choose how many slots to commit in the end.

        Args:
            count: Length of the longest prefix that may be committed.
            pending: Number of pending slots.
        """
        return count
