"""Certainty prior: candidates count for more where the text around them is decided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.policies.top_k import TopK
from dllm.policies.wrapper import Wrapper
from dllm.transfer import to_device
from dllm.types import Canvas, Guess, Policy, State, Verdict, Window


class Around(NamedTuple):
    """What is known of the canvas.

    pending  (b, t) bool   as far as the windows showed
    length   (b, 1) int64  columns of each row
    inner    the wrapped policy's own state
    """

    pending: Tensor
    length: Tensor
    inner: State


@dataclass(frozen=True)
class CertaintyPrior(Wrapper):
    """Judge as `policy` does, with every confidence multiplied by the density of decided columns around it.

    The density is a Gaussian average of 1 where a column is decided and 0 where it is pending. What lies left of the
    canvas counts as decided, what lies right of a row like its last column. Only the confidence is changed: a policy
    that scores by margin or entropy judges as it would alone, and so does one that verifies what is decided (WINO)
    when it does. Where all confidences are equal, text grows outwards from what is decided.

    policy  the rule; published with a number of slots per step, or a threshold
    sigma   width of the average in columns, above 0; it is cut off at 3 sigma

    All columns left of a row's window are taken as decided, which they are with every scheduler that finishes one
    window before it opens the next.

    Reference: d2Cache (arXiv:2509.23094), "certainty prior" of its repository's decoding.
    """

    policy: Policy = TopK(k=1)
    sigma: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ConfigError(f"CertaintyPrior(sigma={self.sigma}): sigma must be a positive number of columns")

    def init(self, canvas: Canvas, /) -> Around:
        length = rearrange(to_device(canvas.rows.length, canvas.tokens.device), "b -> b 1")
        return Around(canvas.pending, length, self.policy.init(canvas))

    def step(self, guess: Guess, window: Window, state: Around, /) -> tuple[Verdict, Around]:
        pending = window.put(state.pending, window.pending, window.valid)
        left = torch.arange(pending.shape[1], device=pending.device) < window.columns[:, :1]
        pending = pending & ~(left & window.valid[:, :1])
        density = window.take(self.density(pending, state.length))
        guess = guess._replace(confidence=guess.confidence * density)
        verdict, inner = self.policy.step(guess, window, state.inner)
        return verdict, Around(pending, state.length, inner)

    def density(self, pending: Tensor, length: Tensor) -> Tensor:
        """Share (b, t) of decided columns around each column, nearer ones counting more."""
        radius = math.ceil(3 * self.sigma)
        column = torch.arange(pending.shape[1], device=pending.device)
        decided = (~pending).float()
        last = decided.gather(1, length - 1)
        decided = torch.where(column < length, decided, last)
        padded = torch.cat([torch.ones_like(last).expand(-1, radius), decided, last.expand(-1, radius)], 1)
        distance = torch.arange(-radius, radius + 1, device=pending.device)
        weight = torch.exp(-0.5 * (distance / self.sigma) ** 2)
        weight = rearrange(weight / weight.sum(), "w -> 1 1 w")
        return rearrange(torch.nn.functional.conv1d(rearrange(padded, "b t -> b 1 t"), weight), "b 1 t -> b t")
