"""How columns attend to each other, what a model is asked in one forward, and where keys and values are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dllm.errors import ConfigError


@dataclass(frozen=True)
class Bidirectional:
    """Every column attends to every column of its row (LLaDA, Dream)."""

    aligned: bool = False
    """Whether blocks lie at absolute multiples of their size (True) or begin at the end of the prompt (False)."""

    def extent(self, limit: Tensor) -> Tensor:
        """Columns that must exist for an output up to `limit`: just those."""
        return limit

    def reach(self, columns: Tensor, length: Tensor) -> Tensor:
        """First column (b, q) that a query at `columns` does not see, in rows of `length` (b,)."""
        return length.unsqueeze(1).expand_as(columns)

    def edge(self, column: int, length: int) -> int:
        """Likewise for one column."""
        return length


@dataclass(frozen=True)
class BlockCausal:
    """A column attends to all earlier blocks and to its own block in both directions (Fast-dLLM v2, SDAR, BD3-LM).

    size 1 is plain causal attention.
    """

    size: int = 32
    aligned: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"BlockCausal(size={self.size}): size must be at least 1")

    def extent(self, limit: Tensor) -> Tensor:
        """Columns that must exist for an output up to `limit`: whole blocks."""
        return torch.div(limit + self.size - 1, self.size, rounding_mode="floor") * self.size

    def reach(self, columns: Tensor, length: Tensor) -> Tensor:
        """First column (b, q) that a query at `columns` does not see: the end of its block."""
        return self.extent(columns + 1)

    def edge(self, column: int, length: int) -> int:
        """Likewise for one column."""
        return (column // self.size + 1) * self.size


Geometry = Bidirectional | BlockCausal


@runtime_checkable
class Store(Protocol):
    """Keys and values of a batch, written in place; made by a model, kept by a cache."""

    def keep(self, rows: Tensor) -> None:
        """Forget every row that is not listed (host indices)."""


class RowSubset(NamedTuple):
    """Some rows of a store.

    rows  (r,) int64  their places
    of    int         rows that the store holds in all
    """

    rows: Tensor
    of: int


class Query(NamedTuple):
    """Columns to run through the model, and what they may look at.

    tokens   (r, q) int64
    columns  (r, q) int64      absolute columns, which are also the positions
    valid    (r, q) bool       padding slots are computed but neither stored nor read
    width    int               keys [0, width) are looked at
    mask     (r, 1, q', width + extra) bool or None  True where a query sees a key; None where all see all; q' is q or 1
    start    int or None       the first column, if `columns` is start .. start+q in every row without padding
    extra    int               the last `extra` of the q slots are not stored; they are the last keys that are looked at
    given    (r, q) bool       columns that the caller gave
    part     Part or None      which of the store's rows these are; None: all, in order. Only a model that has `apart`
                               is asked about some
    """

    tokens: Tensor
    columns: Tensor
    valid: Tensor
    width: int
    mask: Tensor | None
    start: int | None
    extra: int = 0
    given: Tensor | None = None
    part: RowSubset | None = None
