"""The exact certificate as a rule: as many as any test on marginals may allow, with the guarantee of Theorem 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm import theory
from dllm.policies.prefix_rule import PrefixRule, Ranking
from dllm.policies.scores import Peak, Score
from dllm.types import Guess


@dataclass(frozen=True)
class Certified(PrefixRule):
    """Commit the longest prefix with sum_j e_j + max_j p2_j < 1, where e_j = 1 - p1_j.

    Whatever it commits two or more at once is the one and only joint arg-max of those slots given the context, and the
    text that one-by-one greedy decoding reaches in every order, if the marginals are fresh and come from one joint
    (`theory.certified`, proof there). No rule that sees only marginals can commit a longer prefix and keep this: from
    1 on, `theory.star_joint` has these marginals and another arg-max.

    Never fewer than `Factor(1.0)` by the same order: with n slots of deficit at most e₍ₙ₎, where (n + 1) e₍ₙ₎ < 1, both
    p2_j <= e_j and e_j <= e₍ₙ₎ give sum_j e_j + max_j p2_j <= (n + 1) e₍ₙ₎ < 1. In float32 this is so up to rounding:
    certificates hold rounding against themselves and refuse what lies within (n + 1) 1.6e-5 of 1, `Factor` does not.
    On that hair's breadth nobody can say whether Theorem 1 applies, so what `Factor` commits there is not added.

    score  order of preference; any order is sound. A drawn candidate that is not the arg-max is never certified, and
           ends the prefix

    Ours. The test itself is sharp for two or more slots; it needs no parameter.
    """

    score: Score = Peak()

    def holds(self, ranked: Ranking, score: Tensor, guess: Guess, /) -> Tensor:
        chosen = torch.where(guess.tokens == guess.mode, guess.p1, 0)
        return theory.certified_prefix(ranked.sort(chosen), ranked.sort(guess.p2))
