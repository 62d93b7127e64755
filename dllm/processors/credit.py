"""CreditDecoding: raise the logits of tokens that were the likeliest before, so that they pass a threshold sooner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import Canvas, Model, Processor, Where

SMALLEST_CREDIT = 2.0**-23
"""Credit that is lost when it is added to 1 in float32: smaller credit is forgotten."""


class CreditDecodingState(NamedTuple):
    """Credit of the tokens that were predicted at each column so far, in s places; others have none.

    Attributes:
        tokens: Tokens that have credit.
        credit: Their credit; 0 where a place is free.
        mask_id: The mask token, which gets no credit since it is never a candidate. None where there is none.
    """

    tokens: Int[Tensor, "b t s"]
    credit: Float[Tensor, "b t s"]
    mask_id: int | None


@dataclass(frozen=True)
class CreditDecoding(Processor):
    """Raise the logit of a token by `alpha * log(1 + W)`, where W is the credit it earned at its column.

    Whenever a pending column is predicted, the credit W of token v there becomes

        W_v <- beta W_v + p ** gamma   for the likeliest token, of probability p before any credit
        W_v <- beta W_v                for every other token

    Then a policy judges the raised logits.

    One token of a column earns credit at a time, so credit is kept in few places and not over the vocabulary: as many
    as it takes until credit is below float32's resolution (79 with the defaults), which makes it equal to the published
    dense matrix up to rounding. A column that a step does not predict keeps its credit. The published credit ends with
    its block; ours does too where every column is predicted in one block only. Under a scheduler that predicts a column
    in several ranges one after the other its credit lasts. The certificates of a step apply to the raised logits.

    Attributes:
        alpha: Weight of credit, 0 or more; 0 leaves the logits as they are.
        beta: Share of credit that is left at the next prediction, in 0..1. With 0 only the present prediction counts,
            with 1 nothing is forgotten.
        gamma: Exponent, 0 or more. With 0 every prediction earns 1, whatever its probability; with a large one only
            sure ones earn anything.

    References:
        Wang et al. 2025, CreditDecoding (arXiv:2510.06133), with the defaults of its authors' code.

    Departures:
        The mask token, never a candidate here, earns nothing.
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

    def _kept_places(self, t: int) -> int:
        """Compute for how many tokens of a column to keep credit, on a canvas of t columns."""
        # A step gives credit to one token of a column, so a token outside the s latest ones has at most
        # beta^s + beta^(s + 1) + … = beta^s / (1 - beta).
        if self.beta == 0:
            return 1
        if self.beta == 1:
            return t
        return min(t, math.ceil(math.log(SMALLEST_CREDIT * (1 - self.beta)) / math.log(self.beta)))

    def init(self, canvas: Canvas, model: Model, /) -> CreditDecodingState:
        b, t = canvas.tokens.shape
        tokens = torch.zeros(b, t, self._kept_places(t), dtype=torch.int32, device=canvas.tokens.device)
        return CreditDecodingState(tokens, torch.zeros_like(tokens, dtype=torch.float32), model.mask_id)

    def step(
        self, logits: Float[Tensor, "n v"], where: Where, canvas: Canvas, state: CreditDecodingState, /
    ) -> tuple[Float[Tensor, "n v"], CreditDecodingState]:
        known = state.tokens[where.row, where.column].long()
        before = state.credit[where.row, where.column]
        p, best = _likeliest_token(logits, state.mask_id)
        tokens, credit = _add_credit(known, before * self.beta, best, p**self.gamma)
        pending = rearrange(where.pending, "n -> n 1")
        raise_by = torch.where(pending, self.alpha * torch.log1p(credit), 0)
        # Free places hold token 0, whose logit is raised by log(1 + 0) = 0.
        after = logits.scatter_add(1, tokens, raise_by)
        here = where.row, where.column
        kept = state.tokens.index_put(here, torch.where(pending, tokens, known).int())
        return after, state._replace(
            tokens=kept, credit=state.credit.index_put(here, torch.where(pending, credit, before))
        )


def _likeliest_token(
    logits: Float[Tensor, "n v"], mask_id: int | None
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Find the probability, among all tokens, of the likeliest one that is not the mask; and that token."""
    norm = logits.logsumexp(-1)
    if mask_id is not None:
        logits = logits.clone()
        logits[:, mask_id] = -torch.inf
    top, best = logits.max(-1)
    return (top - norm).exp(), best


def _add_credit(
    tokens: Int[Tensor, "n s"], credit: Float[Tensor, "n s"], best: Int[Tensor, " n"], amount: Float[Tensor, " n"]
) -> tuple[Int[Tensor, "n s"], Float[Tensor, "n s"]]:
    """Give the token `best` of each slot its credit, in its own place or else in that of least credit."""
    same = (tokens == rearrange(best, "n -> n 1")) & (credit > 0)
    place = torch.where(same, torch.inf, -credit).argmax(-1, keepdim=True)
    found = same.gather(1, place)
    amount = rearrange(amount, "n -> n 1") + torch.where(found, credit.gather(1, place), 0)
    return tokens.scatter(1, place, rearrange(best, "n -> n 1")), credit.scatter(1, place, amount)
