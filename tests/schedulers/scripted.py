"""A model that predicts what a script says, and plain decoders of one row to compare with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm.types import Bidirectional, Geometry, Model, Query

MASK = 20
END = 19
Prediction = tuple[int, float]
Script = Callable[[Sequence[int]], list[Prediction]]
"""For every column of a row the token that is predicted there, and how surely."""


@dataclass(eq=False)
class Scripted(Model):
    """A model without weights, which sees the row whole: for `NoCache`."""

    script: Script
    geometry: Geometry = Bidirectional()
    needs_left: int = 0
    mask_id: int = MASK
    stop_ids: tuple[int, ...] = ()
    max_columns: int = 2**20
    vocabulary: int = MASK + 1
    family: str = "scripted"
    tokenizer: None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def store(self, columns: int) -> None:
        raise NotImplementedError

    def forward(self, query: Query, store: None) -> Tensor:
        r, q = query.tokens.shape
        chances = torch.full((r, q, self.vocabulary), 1 / MASK)
        for row, (tokens, valid) in enumerate(zip(query.tokens.tolist(), query.valid, strict=True)):
            for column, (token, sure) in enumerate(self.script(tokens[: int(valid.sum())])):
                chances[row, column] = (1 - sure) / (MASK - 1)
                chances[row, column, token] = sure
        chances[..., MASK] = 0
        return chances.log()

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def moody(tokens: Sequence[int]) -> list[Prediction]:
    """Predictions that look random and depend on the whole row; a decided column predicts itself."""
    found = []
    for column, token in enumerate(tokens):
        if token != MASK:
            found.append((token, 1.0))
            continue
        seed = hashlib.sha256(repr((column, list(tokens))).encode()).digest()
        found.append((min(seed[0] * 24 // 256, END), 0.06 + 0.93 * (seed[1] + seed[2] / 256) / 256))
    return found


def fixed(*predictions: Prediction) -> Script:
    """The same predictions whatever the row holds; columns beyond them are unsure."""

    def script(tokens: Sequence[int]) -> list[Prediction]:
        return [*predictions, *[(0, 0.06)] * len(tokens)][: len(tokens)]

    return script


def threshold(found: list[Prediction], candidates: list[int], tau: float) -> list[int]:
    """Columns that `Threshold(tau)` commits, and the best one if there are none."""
    sure = [c for c in candidates if found[c][1] >= tau]
    return sure or [max(candidates, key=lambda c: found[c][1])]
