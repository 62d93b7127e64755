"""Models and policies made to defeat the loop: predictions that never settle, verdicts that never finish."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from dllm.models.tabular import TokenStore
from dllm.signals import Current
from dllm.types import Bidirectional, Geometry, Model, Policy, Query, Signal, Verdict

MIXERS = (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9)


@dataclass(eq=False)
class Restless(Model):
    """Predicts a column from a hash of everything it sees: any token that changes changes every prediction.

    words  tokens 0..words-1; the mask id is `words`
    flips  instead, sure of the token after the one that stands there (0 where nothing does): nothing it sees ever
           satisfies it
    """

    seed: int = 0
    words: int = 3
    flips: bool = False
    geometry: Geometry = field(default_factory=Bidirectional)
    needs_left: int = 0
    stop_ids: tuple[int, ...] = ()
    max_columns: int = 2**20
    family: str = "restless"
    tokenizer: None = None
    device: ClassVar[torch.device] = torch.device("cpu")

    def __post_init__(self) -> None:
        self.mask_id, self.vocabulary = self.words, self.words + 1

    def store(self, columns: int) -> TokenStore:
        return TokenStore(columns)

    def forward(self, query: Query, store: TokenStore | None) -> Tensor:
        r, q = query.tokens.shape
        board = query.tokens[:, : q - query.extra] if store is None else store.update(query, self.mask_id)
        width = board.shape[1]
        seen = torch.ones(r, 1, 1, width + query.extra, dtype=torch.bool) if query.mask is None else query.mask
        seen = rearrange(seen, "r 1 q w -> r q w").expand(r, q, -1)[:, :, :width]
        target = query.columns + self.needs_left
        if self.flips:
            there = board.gather(1, target.clamp(max=width - 1))
            token, height = torch.where(there < self.words, (there + 1) % self.words, 0), torch.full((r, q), 4.0)
        else:
            place = torch.arange(width) + 1
            mixed = ((rearrange(board + 1, "r w -> r 1 w") * place * MIXERS[0]) * seen).sum(-1)
            mixed = (mixed + target * MIXERS[1] + self.seed * 7919) * MIXERS[0]
            mixed = (mixed ^ (mixed >> 29)) * MIXERS[1]
            token, height = (mixed >> 40) % self.words, ((mixed >> 20) & 0xFF) / 40
        logits = torch.nn.functional.one_hot(token, self.vocabulary) * rearrange(height, "r q -> r q 1")
        return logits

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


@dataclass(frozen=True)
class Spiteful(Policy):
    """Accepts everything and revokes everything, also what was given, and never lets a row go; for `patience` steps it
    may."""

    patience: int = 5
    needs: ClassVar[tuple[Signal, ...]] = (Current(),)
    edits: ClassVar[bool] = True

    def bound(self, columns: Tensor) -> Tensor:
        return torch.full_like(columns, self.patience)

    def init(self, canvas: Any, /) -> None:
        return None

    def step(self, guess: Any, window: Any, state: None, /) -> tuple[Verdict, None]:
        everything = torch.ones_like(window.pending)
        return Verdict(everything, guess.confidence, revoke=everything, hold=everything[:, 0]), state


@dataclass(frozen=True)
class Script(Policy):
    """Accepts and revokes the slots that it was told, step by step, and holds the row after the first `hold` steps."""

    accept: tuple[tuple[int, ...], ...]
    revoke: tuple[tuple[int, ...], ...] = ()
    hold: int = 0
    needs: ClassVar[tuple[Signal, ...]] = (Current(),)
    edits: ClassVar[bool] = True

    def bound(self, columns: Tensor) -> Tensor:
        return torch.full_like(columns, len(self.accept))

    def init(self, canvas: Any, /) -> None:
        return None

    def step(self, guess: Any, window: Any, state: None, /) -> tuple[Verdict, None]:
        step = int(window.step[0])
        verdict = Verdict(
            pick(window.pending, self.accept, step),
            guess.confidence,
            revoke=pick(window.pending, self.revoke, step),
            hold=window.step < self.hold,
        )
        return verdict, state


def pick(like: Tensor, slots: tuple[tuple[int, ...], ...], step: int) -> Tensor:
    chosen = torch.zeros_like(like)
    chosen[:, list(slots[step] if step < len(slots) else ())] = True
    return chosen
