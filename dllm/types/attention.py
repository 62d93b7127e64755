"""How columns attend to each other, what a model is asked in one forward, and where keys and values are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.errors import ConfigError


class Geometry:
    """The way columns attend to each other: declared by a model family, asked by caches and schedulers.

    A family may bring a geometry of its own. What a column sees always is a prefix of its row, and a column sees no
    less than the column left of it. The prefix may be another one in the forward that *stores* a finished block for
    good than in the forwards that *denoise* it: finished text may be attended causally while the open block attends in
    both directions.

    Attributes:
        block: Columns of an attention block, past whose end none of its columns sees; the keys and values of finished
            blocks are exact once they are stored. None where every column sees the whole row, so that nothing ever is.
        aligned: Whether blocks lie at absolute multiples of their size (True) or begin at the end of the prompt.
    """

    @property
    def block(self) -> int | None:
        raise NotImplementedError

    aligned: bool

    def extent(self, limit: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Find how many columns must exist for an output up to `limit`."""
        raise NotImplementedError

    def visible_end(
        self, columns: Int[Tensor, "b q"], length: Int[Tensor, " b"], stored: Int[Tensor, " b"] | None = None
    ) -> Int[Tensor, "b q"]:
        """Find the first column that a query at each of `columns` does not see.

        Args:
            columns: Columns that are run.
            length: Columns of each row.
            stored: Columns left of it are of finished blocks, and this forward stores their keys and values for good.
                None where there are none.
        """
        raise NotImplementedError

    def visible_end_at(self, column: int, length: int, stored: int = 0) -> int:
        """Compute `visible_end` of one column."""
        raise NotImplementedError

    def block_bounds(
        self, column: Int[Tensor, " b"], length: Int[Tensor, " b"]
    ) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        """Find the first column, and the one past the last, within which a window around `column` may lie.

        That is the attention block or, where there is none, the whole row of `length` columns.
        """
        if self.block is None:
            return torch.zeros_like(length), length
        end = self.extent(column + 1)
        return end - self.block, torch.minimum(end, length)

    def with_block(self, size: int) -> Geometry:
        """Make the same geometry with attention blocks of `size` columns.

        Raises:
            ConfigError: There are no attention blocks.
        """
        raise ConfigError(f"{self} attends in both directions everywhere: it has no attention block to set")


@dataclass(frozen=True)
class Bidirectional(Geometry):
    """Attention in both directions: every column attends to every column of its row (LLaDA, Dream)."""

    aligned: bool = False

    @property
    def block(self) -> None:
        return None

    def extent(self, limit: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        return limit

    def visible_end(
        self, columns: Int[Tensor, "b q"], length: Int[Tensor, " b"], stored: Int[Tensor, " b"] | None = None
    ) -> Int[Tensor, "b q"]:
        return length.unsqueeze(1).expand_as(columns)

    def visible_end_at(self, column: int, length: int, stored: int = 0) -> int:
        return length


@dataclass(frozen=True)
class BlockCausal(Geometry):
    """Block-causal attention: a column attends to all earlier blocks, and to its own block in both directions.

    Fast-dLLM v2, SDAR and BD3-LM attend so. Size 1 is plain causal attention.

    Attributes:
        size: Columns of a block.
        aligned: As in `Geometry`.
    """

    size: int = 32
    aligned: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"{type(self).__name__}(size={self.size}): size must be at least 1")

    @property
    def block(self) -> int:
        return self.size

    def extent(self, limit: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        return torch.div(limit + self.size - 1, self.size, rounding_mode="floor") * self.size

    def visible_end(
        self, columns: Int[Tensor, "b q"], length: Int[Tensor, " b"], stored: Int[Tensor, " b"] | None = None
    ) -> Int[Tensor, "b q"]:
        return self.extent(columns + 1)

    def visible_end_at(self, column: int, length: int, stored: int = 0) -> int:
        return (column // self.size + 1) * self.size

    def with_block(self, size: int) -> Geometry:
        return replace(self, size=size)


@runtime_checkable
class Store(Protocol):
    """Keys and values of a batch, written in place; made by a model, kept by a cache."""

    def keep(self, rows: Int[Tensor, " r"]) -> None:
        """Keep the listed rows (host indices, possibly more than once) and forget every other one."""


class RowSubset(NamedTuple):
    """Some rows of a store.

    Attributes:
        rows: Their places in the store.
        of: Rows that the store holds in all.
    """

    rows: Int[Tensor, " r"]
    of: int


class Query(NamedTuple):
    """Columns to run through the model, and what they may look at.

    Attributes:
        tokens: Tokens to run.
        columns: Absolute columns, which are also the positions.
        valid: False in padding slots, which are computed but neither stored nor read.
        width: Keys [0, width) are looked at.
        mask: True where a query sees a key; the query axis may have length 1. None where all see all.
        start: First column, if `columns` is start … start + q in every row, without padding; else None.
        extra: Shadow slots: the last `extra` of the q slots are not stored, and are the last keys that are looked at.
        given: Columns that the caller gave.
        subset: Which of the store's rows these are. None for all, in order. Only a model that has
            `forward_overhead_columns` is asked about some.
    """

    tokens: Int[Tensor, "r q"]
    columns: Int[Tensor, "r q"]
    valid: Bool[Tensor, "r q"]
    width: int
    mask: Bool[Tensor, "r 1 mq keys"] | None
    start: int | None
    extra: int = 0
    given: Bool[Tensor, "r q"] | None = None
    subset: RowSubset | None = None
