"""Error budgets: how far the law of what is drawn may lie from the joint, per step or per sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.prefix_rule import PrefixRule, Ranking, rank_slots
from dllm.policies.scores import Peak, Score
from dllm.types import Canvas, Guess, Verdict, Window


@dataclass(frozen=True)
class ErrorBudget(PrefixRule):
    """Commit the longest prefix with sum_j e_j <= delta, where e_j = 1 - p1_j, in every step.

    Then each step's draw lies within delta in total variation of a draw from the joint of its slots
    (`theory.tv_bound`). delta 0 commits one slot a step; delta of the window's size commits it whole.

    A slot committed alone costs nothing: it is drawn from its own marginal, which is its joint. So the slot that the
    loop commits where the budget allows none keeps the bound, however unsure it is.

    delta  total variation, 0 or more
    score  order of preference; it may not depend on what was drawn, as `Confidence` does, or the bound is lost

    The bound needs a coherent joint, fresh predictions and candidates drawn at temperature 1 without filters; commit
    steps of a scheduler decide greedily and are outside it.

    Ours.
    """

    delta: float = 0.1
    score: Score = Peak()

    def __post_init__(self) -> None:
        if not 0 <= self.delta < float("inf"):
            raise ConfigError(f"{type(self).__name__}(delta={self.delta}): delta must be 0 or more; 0 is exact")

    def holds(self, ranked: Ranking, score: Tensor, guess: Guess, /) -> Tensor:
        return ranked.sort(1 - guess.p1).clamp(min=0).cumsum(1) <= self.delta


@dataclass(frozen=True)
class SequenceBudget(ErrorBudget):
    """Commit the longest prefix with sum_j e_j <= what is left of `delta`, a budget for the row's whole text.

    Then the law of the whole text lies within delta in total variation of the joint: the distances of the steps add up
    along every path (hybrid argument), and no path spends more. delta 0 samples exactly, one slot a step; once the
    budget is spent so does any other. A slot committed alone costs nothing, as in `ErrorBudget`, whose conditions hold
    here too.

    The budget goes to those who come first: whatever the first steps can use, they take. `ErrorBudget` spreads it.

    Ours.
    """

    def init(self, canvas: Canvas, /) -> Tensor:
        """What each row (b,) has spent."""
        return torch.zeros(len(canvas.tokens), device=canvas.tokens.device)

    def step(self, guess: Guess, window: Window, state: Tensor, /) -> tuple[Verdict, Tensor]:
        score = self.score(guess, window)
        ranked = rank_slots(score, window.pending)
        spent = state.unsqueeze(1) + ranked.sort(1 - guess.p1).clamp(min=0).cumsum(1)
        count = ((spent <= self.delta) & ranked.candidate).sum(1)
        last = spent.gather(1, (count - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
        accept = ranked.rank < count.unsqueeze(1)
        return Verdict(accept, score), torch.where(count >= 2, last, state)
