"""A policy that lives outside dllm: ten lines, one recipe."""

from dataclasses import dataclass

from torch import Tensor

from dllm import Blocks, DualCache, Margin, Strategy
from dllm.policies import PrefixRule, Score
from dllm.policies.prefix_rule import Ranking
from dllm.types import Guess


@dataclass(frozen=True)
class Relative(PrefixRule):
    """Commit every pending slot whose margin is at least `share` of the best one's; 0 commits the whole window."""

    share: float = 0.8
    score: Score = Margin()

    def holds(self, ranked: Ranking, score: Tensor, guess: Guess, /) -> Tensor:
        return score >= self.share * score[:, :1]


def relative(block: int = 32, share: float = 0.8) -> Strategy:
    """An example, published nowhere: relative margins over a dual cache."""
    return Strategy(Relative(share), Blocks(block), DualCache())
