"""What a cache remembers, which columns a step runs, and what it may run again."""

from __future__ import annotations

from dataclasses import dataclass
from operator import is_
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.types import Canvas, Query, Rows, Store, Window

NEVER = 2**31
"""Forwards since a refresh that did not happen: more than any cache waits."""


class Memory(NamedTuple):
    """What a cache remembers.

    store  keys and values of the rows in `rows`, or None where nothing is kept
    rows   (r,) int64  host; rows of the batch that the store still holds
    exact  (b,) int64  host; columns [0, exact) are stored and can never change (always 0 when bidirectional)
    since  (b,) int64  host; forwards since the row was last refreshed, `NEVER` where it has to be
    log    what the rows did so far, for caches that ask for it
    last   what the last step ran, if the next one may run the same
    """

    store: Store | None
    rows: Tensor
    exact: Tensor
    since: Tensor
    log: Any = None
    last: Last | None = None

    @classmethod
    def blank(cls, b: int, store: Store | None) -> Memory:
        """Before the first step of `b` rows."""
        zeros = torch.zeros(b, dtype=torch.int64)
        return cls(store, torch.arange(b), zeros, zeros + NEVER)

    def forget(self, moved: Tensor) -> Memory:
        """Once columns have moved (`Step.moved`): nothing is known from a row's first moved column on."""
        t = moved.shape[1]
        first = torch.where(moved == torch.arange(t), t, torch.arange(t)).amin(1)
        since = torch.where(first < t, NEVER, self.since)
        return self._replace(exact=torch.minimum(self.exact, first), since=since, last=None)

    def back(self, rows: Tensor) -> Memory:
        """With the marked rows (b,) in the store again where they had left it. What it holds of them is not theirs, so
        they must be as before their first step otherwise."""
        if self.store is None:
            return self
        wanted = torch.zeros_like(rows).index_fill(0, self.rows, True) | rows
        there = wanted.nonzero().flatten()
        if len(there) > len(self.rows):
            self.store.keep(torch.searchsorted(self.rows, there).clamp(max=len(self.rows) - 1))
        return self._replace(rows=there)


class Reach(NamedTuple):
    """Columns [start, end) to run for each row (host).

    skip  (b, t) bool or None  columns in between that are left out; never one that the window predicts
    """

    start: Tensor
    end: Tensor
    skip: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """What a model was asked in one forward, to be asked the same of a later canvas.

    query    what it was asked of the canvas that was there then
    rows     (r,) int64  host; rows of the batch
    place    where the window's slots lie in what it showed: a span, or (r, k) int64
    queries  (b,) int64  host; columns run for each row
    """

    query: Query
    rows: Tensor
    place: slice | Tensor
    queries: Tensor


@dataclass(frozen=True, eq=False)
class Last:
    """What a step ran that refreshed nothing: the same columns are run as long as every row stays in its range.

    range       the window's `start`, `end`, `block_start`, `block_end` and `closed`
    first       (b,) bool  host; the window's; None where it does not matter
    facts       the rows' facts
    reach       the columns of each row
    runs        (b,) bool  host; rows that ran
    fresh       (b,) bool  host; as in `Course`
    asked       what the model was asked, once it has been; None if not in one forward, or not only that
    """

    range: tuple[Tensor, ...]
    first: Tensor | None
    facts: Rows
    reach: Reach
    runs: Tensor
    fresh: Tensor
    asked: Asked | None = None

    def lasts(self, canvas: Canvas, window: Window) -> bool:
        """Whether a step that refreshes nothing runs the same again."""
        same = self.facts is canvas.rows and all(map(is_, self.range, range_of(window)))
        return same and (self.first is None or torch.equal(self.first, window.first))


def range_of(window: Window) -> tuple[Tensor, ...]:
    """What a scheduler hands on where every row stays in its range."""
    return window.start, window.end, window.block_start, window.block_end, window.closed


def left_out(reach: Reach) -> Tensor:
    """Columns (b,) of each row's range that are not run (host)."""
    assert reach.skip is not None
    return reach.end - reach.start - covered(reach, reach.skip.shape[1]).sum(1)


def covered(reach: Reach, t: int) -> Tensor:
    """The columns (b, t) that are run (host)."""
    column = torch.arange(t)
    inside = (column >= rearrange(reach.start, "b -> b 1")) & (column < rearrange(reach.end, "b -> b 1"))
    return inside if reach.skip is None else inside & ~reach.skip
