"""Paces: how many slots to commit at each step of a planned number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import Window


@runtime_checkable
class Pace(Protocol):
    """A quota per row and step."""

    @property
    def rests(self) -> bool:
        """Tell whether a step with a quota of zero commits nothing (True) or one slot (False)."""
        ...

    def quota(self, window: Window, opened: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        """Compute how many slots of each row to commit now.

        Args:
            window: The window, whose `steps` are the planned ones.
            opened: Slots that were pending when the window's range was opened.
        """
        ...


def split_evenly(slots: Int[Tensor, " b"], window: Window) -> Int[Tensor, " b"]:
    """Compute this step's share of slots that are split evenly over the planned steps.

    The first steps get the remainder. In steps beyond the planned ones the shares go on without it.
    """
    assert window.steps is not None
    return slots // window.steps + (window.step < slots % window.steps)


@dataclass(frozen=True)
class EqualSplit:
    """An even split, over the steps of a block, of the slots that are pending when it is opened.

    With n slots and s steps, each of the first n mod s steps commits ⌊n/s⌋ + 1 slots and every later one ⌊n/s⌋.

    References:
        Nie et al. 2025, LLaDA (arXiv:2502.09992), `get_num_transfer_tokens`.
    """

    rests: ClassVar[bool] = False

    def quota(self, window: Window, opened: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        return split_evenly(opened, window)


@dataclass(frozen=True)
class FullBlock:
    """An even split of the block's whole size over its steps, even where part of the block is prompt.

    References:
        SDAR (arXiv:2510.06303), `generate.py`.

    Departures:
        A quota larger than what is pending takes what is pending, while the published code overwrites decided tokens.
    """

    rests: ClassVar[bool] = False

    def quota(self, window: Window, opened: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        return split_evenly(window.valid.sum(1), window)


@dataclass(frozen=True)
class TimeSchedule:
    """A quota that follows a diffusion time, which falls linearly from 1 to `eps`.

    When time goes from t to s, ⌊n (1 - s/t)⌋ of n pending slots are committed, and all that are left in the last step.
    A quota of zero commits nothing.

    Attributes:
        eps: Time at which the last step ends, between 0 and 1.

    References:
        Ye et al. 2025, Dream (arXiv:2508.15487), `_sample`.
    """

    eps: float = 1e-3
    rests: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ConfigError(f"TimeSchedule(eps={self.eps}): eps must lie between 0 and 1")

    def quota(self, window: Window, opened: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        assert window.steps is not None
        pending = window.pending.sum(1)
        times = torch.linspace(1, self.eps, window.steps + 1, device=pending.device)
        now = window.step.clamp(max=window.steps - 1)
        share = 1 - times[now + 1] / times[now]
        return torch.where(window.step >= window.steps - 1, pending, (pending * share).long())
