"""Random numbers of a row's own seed, which neighbours, padding and the cache cannot change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Float64
from torch import Tensor

from dllm.types import LogitScale, Signal, Where


@dataclass(frozen=True)
class Noise(Signal):
    """One uniform number in [0, 1) for each slot."""

    reads_logits: ClassVar[bool] = False

    def compute(self, logits: Float[Tensor, "n v"], where: Where, scale: LogitScale, /) -> Float[Tensor, " n"]:
        return uniform_noise(where, stream=1).float()


def uniform_noise(where: Where, stream: int) -> Float64[Tensor, " n"]:
    """Draw one number in [0, 1) for each slot: a hash of seed, window, column and stream (splitmix64's mixer)."""
    x = where.seed * 0x1E3779B97F4A7C15 + where.draw * 0x3F58476D1CE4E5B9 + where.column * 0x14D049BB133111EB + stream
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        # int64 shifts keep the sign: mask it off, so that the shift is that of an unsigned number
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return ((x >> 11) & ((1 << 53) - 1)).double() * 2.0**-53
