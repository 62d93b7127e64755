"""What a cache remembers, which columns a step runs, and what it may run again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.types import Query, Store, Transient, Window

NEVER = 2**31
"""Forwards since a refresh that did not happen: more than any cache waits."""


class CacheState(NamedTuple):
    """The state of a cache.

    Attributes:
        store: Keys and values of the rows in `rows`. None where nothing is kept.
        rows: Rows of the batch that the store still holds, in ascending order (host).
        exact: Columns [0, exact) are stored and can never change; always 0 with bidirectional attention (host).
        since: Forwards since the row was last refreshed, `NEVER` where it has to be (host).
        log: What the rows did so far, for caches that ask for it.
        last: What the last step ran, if the next one may run the same.
    """

    store: Store | None
    rows: Int[Tensor, " r"]
    exact: Int[Tensor, " b"]
    since: Int[Tensor, " b"]
    log: Any = None
    last: LastForward | None = None

    @classmethod
    def blank(cls, b: int, store: Store | None) -> CacheState:
        """Make the state before the first step of `b` rows."""
        zeros = torch.zeros(b, dtype=torch.int64)
        return cls(store, torch.arange(b), zeros, zeros + NEVER)

    def forget(self, moved: Int[Tensor, "b t"]) -> CacheState:
        """Forget everything from each row's first moved column on, once columns have moved (`Step.moved`).

        Every row with such a column has to be refreshed: also the columns left of it saw those that have moved.
        """
        t = moved.shape[1]
        first = torch.where(moved == torch.arange(t), t, torch.arange(t)).amin(1)
        since = torch.where(first < t, NEVER, self.since)
        return self._replace(exact=torch.minimum(self.exact, first), since=since, last=None)

    def readmit(self, rows: Bool[Tensor, " b"]) -> CacheState:
        """Make room in the store for the marked rows, where they had left it.

        What the store then holds of them belongs to other rows, so all else that is remembered of the marked rows must
        be set back to what it is before their first step.
        """
        if self.store is None:
            return self
        wanted = torch.zeros_like(rows).index_fill(0, self.rows, True) | rows
        there = wanted.nonzero().flatten()
        if len(there) > len(self.rows):
            # `rows` is in order, so a row that the store still holds finds itself. One that had left it finds the next
            # row behind it, whose keys and values merely fill the place.
            self.store.keep(torch.searchsorted(self.rows, there).clamp(max=len(self.rows) - 1))
        return self._replace(rows=there)


class ColumnRange(NamedTuple):
    """Columns [start, end) to run for each row (host).

    Attributes:
        start: First column.
        end: One past the last column; equal to `start` where nothing is run.
        skip: Columns in between that are left out; never one that the window predicts. None where there are none.
    """

    start: Int[Tensor, " b"]
    end: Int[Tensor, " b"]
    skip: Bool[Tensor, "b t"] | None = None


@dataclass(frozen=True, eq=False)
class ReusableQuery:
    """The query of one forward, to be run again over a later canvas.

    Attributes:
        query: The query, with the tokens of the canvas that was there then.
        rows: Rows of the batch (host).
        place: Where the window's slots lie among the columns of the query: a span that is the same in every row, or an
            index for each slot.
        queries: Columns run for each row (host).
    """

    query: Query
    rows: Int[Tensor, " r"]
    place: slice | Int[Tensor, "r k"]
    queries: Int[Tensor, " b"]


@dataclass(frozen=True, eq=False)
class LastForward(Transient):
    """The forward of a step that refreshed nothing: the same columns are run again while every row stays in its range.

    Attributes:
        first: The window's `first`. None where it does not matter.
        reach: Columns of each row.
        runs: Rows that ran (host).
        fresh: As in `ForwardPlan`.
        reusable: The query that was run, once it has been. None if the step was not one forward of the model alone.
    """

    first: Bool[Tensor, " b"] | None
    reach: ColumnRange
    runs: Bool[Tensor, " b"]
    fresh: Bool[Tensor, " b"]
    reusable: ReusableQuery | None = None

    def holds_for(self, window: Window) -> bool:
        """Tell whether the next step, if it refreshes nothing, runs the same again."""
        return window.unchanged and (self.first is None or torch.equal(self.first, window.first))


def columns_between(start: Int[Tensor, " r"], end: Int[Tensor, " r"], t: int) -> Bool[Tensor, "r t"]:
    """Mark the columns [start, end) of each row among `t` columns (host)."""
    column = torch.arange(t)
    return (column >= rearrange(start, "r -> r 1")) & (column < rearrange(end, "r -> r 1"))


def covered_columns(reach: ColumnRange, t: int) -> Bool[Tensor, "b t"]:
    """Mark the columns that are run (host)."""
    inside = columns_between(reach.start, reach.end, t)
    return inside if reach.skip is None else inside & ~reach.skip


def count_skipped_columns(reach: ColumnRange) -> Int[Tensor, " b"]:
    """Count the columns of each row's range that are not run (host)."""
    assert reach.skip is not None
    return reach.end - reach.start - covered_columns(reach, reach.skip.shape[1]).sum(1)
