"""A policy that looks inside the network: commit what attends to text that is decided."""

from dataclasses import dataclass

from dllm.signals import Attention
from dllm.types import Guess, Policy, Probe, State, Verdict, Window


@dataclass(frozen=True)
class Anchored(Policy):
    """Commit every pending slot that gives decided columns at least `share` of its attention.

    Attributes:
        share: 0 commits the whole window; above 1 one slot a step, the one that attends most to what is decided.
        layers: Layers whose attention is averaged, negative from the end. None for all.
    """

    share: float = 0.8
    layers: tuple[int, ...] | None = (-1,)

    @property
    def needs(self) -> tuple[Probe, ...]:
        return (Attention(self.layers),)

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]:
        attention = guess[Attention(self.layers)]  # (b, k, t): how slots of the window look at columns of the canvas
        assert window.undecided is not None, "schedulers that open windows by open_window say what is undecided"
        decided = ~window.undecided.to(attention.device)
        weight = (attention * decided.unsqueeze(1)).sum(-1)
        return Verdict(weight >= self.share, weight), state
