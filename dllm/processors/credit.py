"""CreditDecoding: tokens that were the likeliest before are given a little more, so that they are sure sooner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import Canvas, Where

SMALLEST = 2.0**-23
"""Credit beside which 1 is still 1 in float32: what is smaller is forgotten."""


class Credits(NamedTuple):
    """What a column was predicted to hold so far, in s places; tokens of no credit are not kept.

    tokens   (b, t, s) int32
    credit   (b, t, s) float32  0 where a place is free
    mask_id  never credited, since it is never a candidate
    """

    tokens: Tensor
    credit: Tensor
    mask_id: int | None


@dataclass(frozen=True)
class CreditDecoding:
    """Raise the logit of a token by `alpha * log(1 + W)`, W being the credit it earned at its column.

    Whenever a pending column is predicted, all its credit is multiplied by `beta`, and its likeliest token earns
    p ** gamma, p being its probability before any credit. Then a policy judges the raised logits.

    alpha  weight of credit; 0: the logits stay as they are
    beta   what is left of credit at the next prediction; 0: only the present one counts, 1: nothing is forgotten
    gamma  0: every prediction earns 1, whatever its probability; large: only sure ones earn anything

    A column earns credit one token at a time, so it is kept in few places and not over the vocabulary: as many as it
    takes until credit is below float32's resolution (79 with the defaults), which makes it equal to the published dense
    matrix up to rounding. A column that a step does not predict keeps its credit. The published credit ends with its
    block; so does this, where every column is predicted in one block only. Under a scheduler that predicts a column in
    several ranges one after the other its credit lasts. The certificates of a step speak of the raised logits.

    Reference: Wang et al. 2025, CreditDecoding (arXiv:2510.06133), with the defaults of its authors' code.
    Departs from it: the mask token, never a candidate here, earns nothing.
    """

    alpha: float = 0.7
    beta: float = 0.8
    gamma: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise ConfigError(f"{self}: alpha must be 0 or a positive number")
        if not 0 <= self.beta <= 1:
            raise ConfigError(f"{self}: beta must lie in 0..1")
        if not 0 <= self.gamma < math.inf:
            raise ConfigError(f"{self}: gamma must be 0 or a positive number")

    def places(self, t: int) -> int:
        """Tokens to remember for a column; what is then forgotten has credit of at most beta^s / (1 - beta)."""
        if self.beta == 0:
            return 1
        if self.beta == 1:
            return t
        return min(t, math.ceil(math.log(SMALLEST * (1 - self.beta)) / math.log(self.beta)))

    def init(self, canvas: Canvas, model: Any, /) -> Credits:
        b, t = canvas.tokens.shape
        tokens = torch.zeros(b, t, self.places(t), dtype=torch.int32, device=canvas.tokens.device)
        return Credits(tokens, torch.zeros_like(tokens, dtype=torch.float32), model.mask_id)

    def step(self, logits: Tensor, where: Where, canvas: Canvas, state: Credits, /) -> tuple[Tensor, Credits]:
        known = state.tokens[where.row, where.column].long()
        before = state.credit[where.row, where.column]
        p, best = likeliest(logits, state.mask_id)
        tokens, credit = earn(known, before * self.beta, best, p**self.gamma)
        pending = rearrange(where.pending, "n -> n 1")
        raise_by = torch.where(pending, self.alpha * torch.log1p(credit), 0)
        after = logits.scatter_add(1, tokens, raise_by)
        here = where.row, where.column
        kept = state.tokens.index_put(here, torch.where(pending, tokens, known).int())
        return after, state._replace(
            tokens=kept, credit=state.credit.index_put(here, torch.where(pending, credit, before))
        )


def likeliest(logits: Tensor, mask_id: int | None) -> tuple[Tensor, Tensor]:
    """The likeliest token (n,) but for the mask, and its probability (n,) among all."""
    norm = logits.logsumexp(-1)
    if mask_id is not None:
        logits = logits.clone()
        logits[:, mask_id] = -torch.inf
    top, best = logits.max(-1)
    return (top - norm).exp(), best


def earn(tokens: Tensor, credit: Tensor, best: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and credit (n, s) once `best` (n,) has earned `amount` (n,), in its place or that of least credit."""
    same = (tokens == rearrange(best, "n -> n 1")) & (credit > 0)
    place = torch.where(same, torch.inf, -credit).argmax(-1, keepdim=True)
    found = same.gather(1, place)
    amount = rearrange(amount, "n -> n 1") + torch.where(found, credit.gather(1, place), 0)
    return tokens.scatter(1, place, rearrange(best, "n -> n 1")), credit.scatter(1, place, amount)
