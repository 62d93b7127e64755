"""The exact certificate as a rule: as many slots as any test on marginals may allow, with Theorem 1's guarantee."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dllm import theory
from dllm.policies.prefix_rule import PrefixRule, Ranking
from dllm.policies.scores import Peak, Score
from dllm.types import Guess


@dataclass(frozen=True)
class Certified(PrefixRule):
    """Commit the longest prefix of the ranking with sum_j e_j + max_j p2_j < 1, where e_j = 1 - p1_j.

    Two or more slots that are committed at once are then the only joint arg-max of those slots given the context, and
    the text that greedy decoding of one slot at a time reaches in every order, if the marginals are fresh and come from
    one joint (`theory.is_certified` has the proof). No rule that sees only marginals can commit a longer prefix and
    keep this guarantee: for a sum of 1 or more, `theory.star_joint` is a joint with these marginals and another
    arg-max. The test itself is sharp for two or more slots, and needs no parameter. It has no published source.

    It never commits fewer slots than `Factor(1.0)` with the same order: take n slots of deficit at most e₍ₙ₎, where
    (n + 1) e₍ₙ₎ < 1. Then p2_j <= e_j and e_j <= e₍ₙ₎ give sum_j e_j + max_j p2_j <= (n + 1) e₍ₙ₎ < 1. In float32 this
    holds up to rounding: a certificate assumes that rounding was unfavourable and refuses what lies within
    (n + 1) 1.6e-5 of 1, while `Factor` does not. In that narrow range it cannot be decided whether Theorem 1 applies,
    so the slots that `Factor` commits there are not added.

    Attributes:
        score: Order of preference; any order is sound. A drawn candidate that is not the arg-max is never certified,
            and ends the prefix.
    """

    score: Score = Peak()

    def holds(self, ranked: Ranking, score: Float[Tensor, "b k"], guess: Guess, /) -> Bool[Tensor, "b k"]:
        chosen = torch.where(guess.tokens == guess.mode, guess.p1, 0)
        return theory.certified_prefix(ranked.sort(chosen), ranked.sort(guess.p2))
