"""Paces: how many slots to commit at each step of a planned number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import Window


@runtime_checkable
class Pace(Protocol):
    """A quota per row and step."""

    @property
    def rests(self) -> bool:
        """Whether a quota of zero is meant: the step then commits nothing."""
        ...

    def quota(self, window: Window, opened: Tensor, /) -> Tensor:
        """Slots (b,) to commit now; `opened` (b,) slots were pending when the window's range was opened."""
        ...


@dataclass(frozen=True)
class EqualSplit:
    """The slots pending when a block is opened, split evenly over its steps; the first steps get the remainder.

    Reference: Nie et al. 2025, LLaDA (arXiv:2502.09992), `get_num_transfer_tokens`.
    """

    rests: ClassVar[bool] = False

    def quota(self, window: Window, opened: Tensor, /) -> Tensor:
        assert window.steps is not None
        return opened // window.steps + (window.step < opened % window.steps)


@dataclass(frozen=True)
class FullBlock:
    """The block's whole size split evenly over its steps, even where part of the block is prompt.

    Reference: SDAR (arXiv:2510.06303), `generate.py`. Departs from it: a quota larger than what is pending takes what
    is pending, where the published code overwrites decided tokens.
    """

    rests: ClassVar[bool] = False

    def quota(self, window: Window, opened: Tensor, /) -> Tensor:
        assert window.steps is not None
        size = window.valid.sum(1)
        return size // window.steps + (window.step < size % window.steps)


@dataclass(frozen=True)
class TimeSchedule:
    """Follow a diffusion time that falls linearly from 1 to `eps`: of n pending slots commit ⌊n (1 - s/t)⌋ when time
    goes from t to s, and all that is left in the last step. A quota of zero commits nothing.

    Reference: Ye et al. 2025, Dream (arXiv:2508.15487), `_sample`.
    """

    eps: float = 1e-3
    rests: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ConfigError(f"TimeSchedule(eps={self.eps}): eps must lie between 0 and 1")

    def quota(self, window: Window, opened: Tensor, /) -> Tensor:
        assert window.steps is not None
        pending = window.pending.sum(1)
        times = torch.linspace(1, self.eps, window.steps + 1, device=pending.device)
        now = window.step.clamp(max=window.steps - 1)
        share = 1 - times[now + 1] / times[now]
        return torch.where(window.step >= window.steps - 1, pending, (pending * share).long())
