"""Error budgets: how far the law of what is drawn may lie from the joint, per step or per sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import PrefixRule, Ranking, rank_slots
from dllm.policies.scores import Peak, Score
from dllm.types import Canvas, Guess, Verdict, Window


@dataclass(frozen=True)
class ErrorBudget(PrefixRule):
    """Commit the longest prefix with sum_j e_j <= delta, where e_j = 1 - p1_j, in every step.

    Then the draw of each step lies within delta in total variation of a draw from the joint of its slots
    (`theory.tv_bound`). A delta of 0 commits one slot a step; a delta of the window's size commits it whole.

    A slot committed alone costs nothing: it is drawn from its own marginal, which is its joint. So the slot that the
    loop commits where the budget allows none keeps the bound, however unsure it is.

    The bound needs a coherent joint, fresh predictions and candidates drawn at temperature 1 without filters. It does
    not cover the commit steps of a scheduler, which decide greedily. The rule is ours: it has no published source.

    Attributes:
        delta: Total variation, 0 or more.
        score: Order of preference. It may not depend on what was drawn, as `Confidence` does, or the bound is lost.
    """

    delta: float = 0.1
    score: Score = Peak()

    def __post_init__(self) -> None:
        if not 0 <= self.delta < float("inf"):
            raise ConfigError(f"{type(self).__name__}(delta={self.delta}): delta must be 0 or more; 0 is exact")

    def holds(self, ranked: Ranking, score: Float[Tensor, "b k"], guess: Guess, /) -> Bool[Tensor, "b k"]:
        return _summed_deficits(ranked, guess) <= self.delta


@dataclass(frozen=True)
class SequenceBudget(ErrorBudget):
    """Commit the longest prefix with sum_j e_j <= the rest of `delta`, which is a budget for the row's whole text.

    Then the law of the whole text lies within delta in total variation of the joint: the distances of the steps add up
    along every path (hybrid argument), and no path spends more. A delta of 0 samples exactly, one slot a step; any
    other does so once the budget is spent. A slot committed alone costs nothing, as in `ErrorBudget`, whose conditions
    hold here too.

    Early steps take all of the budget that they can use; `ErrorBudget` spreads it over the steps. The rule is
    ours: it has no published source.

    Attributes:
        delta: Total variation, 0 or more.
        score: As in `ErrorBudget`.
    """

    def init(self, canvas: Canvas, /) -> Float[Tensor, " b"]:
        """Make the state: the part of the budget that each row has spent."""
        return torch.zeros(len(canvas.tokens), device=canvas.tokens.device)

    def step(self, guess: Guess, window: Window, state: Float[Tensor, " b"], /) -> tuple[Verdict, Float[Tensor, " b"]]:
        score = self.score(guess, window)
        ranked = rank_slots(score, window.pending)
        spent = state.unsqueeze(1) + _summed_deficits(ranked, guess)
        count = ((spent <= self.delta) & ranked.candidate).sum(1)
        last = spent.gather(1, (count - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        accept = ranked.rank < count.unsqueeze(1)
        return Verdict(accept, score), torch.where(count >= 2, last, state)


def _summed_deficits(ranked: Ranking, guess: Guess) -> Float[Tensor, "b k"]:
    """Sum the deficits 1 - p1 of the prefix that ends at each rank; rounding may not make one negative."""
    return ranked.sort(1 - guess.p1).clamp(min=0).cumsum(1)
