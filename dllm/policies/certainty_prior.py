"""Certainty prior: candidates count for more where the text around them is decided."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.top_k import TopK
from dllm.policies.wrapper import PolicyWrapper
from dllm.transfer import to_device
from dllm.types import Canvas, Guess, Policy, State, Verdict, Window


class CertaintyPriorState(NamedTuple):
    """Knowledge of the canvas.

    Attributes:
        pending: Pending columns, as far as the windows so far showed them.
        length: Columns of each row.
        inner: State of the wrapped policy.
    """

    pending: Bool[Tensor, "b t"]
    length: Int[Tensor, "b 1"]
    inner: State


@dataclass(frozen=True)
class CertaintyPrior(PolicyWrapper):
    """The judgement of `policy`, with every confidence multiplied by the density of decided columns around it.

    The density is a Gaussian average of 1 where a column is decided and 0 where it is pending:

        density_i = sum_j w_(i-j) decided_j,   w_d ∝ exp(-d² / (2 sigma²)),   |d| <= ⌈3 sigma⌉

    Columns left of the canvas count as decided; columns right of a row count like the row's last column. Only the
    confidence is changed: a policy that scores by margin or entropy judges as it would alone, and so does the check of
    decided tokens in a policy that verifies them (WINO). Where all confidences are equal, text grows outwards from what
    is decided.

    All columns left of a row's window are taken as decided, which they are with every scheduler that finishes one
    window before it opens the next.

    Attributes:
        policy: The rule. It was published with a number of slots per step, and with a threshold.
        sigma: Width of the average in columns, above 0; the average is cut off at 3 sigma.

    References:
        d2Cache (arXiv:2509.23094), "certainty prior" of its repository's decoding.
    """

    policy: Policy = TopK(k=1)
    sigma: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"CertaintyPrior(sigma={self.sigma}): sigma must be a positive number of columns")

    def init(self, canvas: Canvas, /) -> CertaintyPriorState:
        length = rearrange(to_device(canvas.rows.length, canvas.tokens.device), "b -> b 1")
        return CertaintyPriorState(canvas.pending, length, self.policy.init(canvas))

    def step(self, guess: Guess, window: Window, state: CertaintyPriorState, /) -> tuple[Verdict, CertaintyPriorState]:
        pending = window.put(state.pending, window.pending, window.valid)
        left = torch.arange(pending.shape[1], device=pending.device) < window.columns[:, :1]
        pending = pending & ~(left & window.valid[:, :1])
        density = window.take(self._decided_density(pending, state.length))
        guess = replace(guess, confidence=guess.confidence * density)
        verdict, inner = self.policy.step(guess, window, state.inner)
        return verdict, CertaintyPriorState(pending, state.length, inner)

    def _decided_density(self, pending: Bool[Tensor, "b t"], length: Int[Tensor, "b 1"]) -> Float[Tensor, "b t"]:
        """Compute the share of decided columns around each column, where nearer ones count more."""
        radius = math.ceil(3 * self.sigma)
        column = torch.arange(pending.shape[1], device=pending.device)
        decided = (~pending).float()
        last = decided.gather(1, length - 1)
        # A row's last column is continued to the right, so that the padding behind a short row, and with it the lengths
        # of its neighbours, have no influence.
        decided = torch.where(column < length, decided, last)
        padded = torch.cat([torch.ones_like(last).expand(-1, radius), decided, last.expand(-1, radius)], 1)
        distance = torch.arange(-radius, radius + 1, device=pending.device)
        weight = torch.exp(-0.5 * (distance / self.sigma) ** 2)
        weight = rearrange(weight / weight.sum(), "w -> 1 1 w")
        return rearrange(torch.nn.functional.conv1d(rearrange(padded, "b t -> b 1 t"), weight), "b 1 t -> b t")
