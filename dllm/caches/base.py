"""What all caches share: run some columns of each row, keep keys and values, show the window what was seen.

A cache is decided by two numbers per row and step: the first column that is run and the one past the last (and, where
it leaves holes, by what is left out in between). Whatever is run is stored in place and everything stored is looked at.
The caches differ only in this, for both geometries of attention:

    bidirectional   a refresh runs the whole row
    block-causal    a refresh runs the current block, and before it whatever finished block is not stored yet
                    (finished blocks are exact: their keys and values never change again)

What has changed since it was last run (decided, replaced or revoked) is stale in the store until it is run again. The
columns of a window are run in every step, so a column goes stale only when the window leaves it: until the next refresh
with `PrefixCache` (left of the block), `DualCache` and `VicinityCache` (out of reach of the window); for one step at
most with `SlidingCache` and `DelayedCache`, which run again whatever the last window may have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm.caches.memory import NEVER, CacheState, ColumnRange, LastForward, count_skipped_columns
from dllm.caches.running import run_forward
from dllm.errors import ConfigError
from dllm.types import Cache, Canvas, Model, Seen, Window


class ForwardPlan(NamedTuple):
    """What a step is going to run.

    reach   the columns of each row
    fresh   (b,) bool  host; rows whose predictions will rest on nothing stale
    memory  what the cache remembers afterwards, but for the keys and values
    """

    reach: ColumnRange
    fresh: Tensor
    memory: CacheState


class PlannedCache(Cache, hooks=("plan",)):
    """Base class of caches whose forward is fully described by `plan`; required by `Speculative`.

    The output of such a step depends on the tokens that are run, and on what is stored of the columns that are not. So
    a wrapper can foresee it.

    Raises:
        TypeError: A subclass defines `step`, which would do more than its plan says; derive it from `Cache` instead.
    """

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if "step" in vars(cls):
            raise TypeError(f"{cls.__name__}.step: a PlannedCache runs what it plans; derive from Cache to do more")

    def plan(self, model: Model, canvas: Canvas, window: Window, memory: CacheState, /) -> ForwardPlan:
        """What a step would run; nothing is run or stored."""
        raise NotImplementedError

    def step(self, model: Model, canvas: Canvas, window: Window, memory: CacheState, /) -> tuple[Seen, CacheState]:
        course = self.plan(model, canvas, window, memory)
        ran, memory = run_forward(model, canvas, window, course.reach, course.memory)
        return Seen(ran.hidden, ran.queries, course.fresh, ran.shadow, ran.probes), memory

    def renew(self, state: CacheState, fresh: CacheState, rows: Tensor, renew_rows: Callable[..., Any], /) -> Any:
        return renew_rows(state.readmit(rows), fresh, rows)

    def forget(self, state: CacheState, moved: Tensor, /) -> CacheState:
        return state.forget(moved)


class CacheChoice(NamedTuple):
    """What a cache chooses from, for each row (b,) (host).

    refresh  the row is refreshed now
    whole    first column of a refresh
    block    first column of the current block, with what a shifted model needs left of it
    left     first column of the window, likewise
    window   one past the window's last column
    ends     one past the last column of a refresh
    log      what the rows did so far, for caches that ask for it
    """

    refresh: Tensor
    whole: Tensor
    block: Tensor
    left: Tensor
    window: Tensor
    ends: Tensor
    log: Any = None


@dataclass(frozen=True)
class StoredCache(PlannedCache, hooks=("due", "reach")):
    """Base of the caches that store.

    refresh  refresh a row at least every so many forwards; None: only on entering a block
    """

    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise ConfigError(f"{type(self).__name__}(refresh={self.refresh}): refresh must be at least 1 or None")

    def init(self, canvas: Canvas, model: Model, /) -> CacheState:
        b, t = canvas.tokens.shape
        return CacheState.blank(b, model.store(t))

    def plan(self, model: Model, canvas: Canvas, window: Window, memory: CacheState, /) -> ForwardPlan:
        block_causal = model.geometry.block is not None
        ends = window.block_end if block_causal else canvas.rows.length
        refresh = self.due(window, memory)
        if block_causal:
            refresh = refresh | (memory.exact < window.block_start)
        last = memory.last
        if last is not None and last.holds_for(window) and not any((refresh & last.runs).tolist()):
            return ForwardPlan(last.reach, last.fresh, memory._replace(since=memory.since + last.runs))
        left, block, first = window.start, window.block_start, None
        if model.needs_left:
            first = window.first if window.answer is None else None
            predicted = window.end > window.start if first is None else first
            left = torch.where(predicted, left - model.needs_left, left).clamp(min=0)
            block = torch.minimum(block, left)
        start, end, skip = self.reach(
            CacheChoice(
                refresh=refresh,
                whole=torch.minimum(memory.exact, left) if block_causal else memory.exact,
                block=block,
                left=left,
                window=window.end,
                ends=ends,
                log=memory.log,
            )
        )
        runs = ((window.end > window.start) | window.commit) & (end > start)
        start, end = torch.where(runs, start, 0), torch.where(runs, end, 0)
        reach = ColumnRange(start, end, skip)
        fresh = runs & (start <= memory.exact) & (end >= ends)
        if skip is not None:
            fresh = fresh & (count_skipped_columns(reach) == 0)
        exact = torch.where(fresh, window.block_start, memory.exact) if block_causal else memory.exact
        since = torch.where(runs, torch.where(refresh, 0, memory.since) + 1, memory.since)
        last = None
        if memory.log is None and not any((refresh & runs).tolist()):
            last = LastForward(first, reach, runs, fresh)
        return ForwardPlan(reach, fresh, memory._replace(exact=exact, since=since, last=last))

    def due(self, window: Window, memory: CacheState) -> Tensor:
        """Rows (b,) to refresh now."""
        return window.entered | window.commit | (memory.since >= (NEVER if self.refresh is None else self.refresh))

    def reach(self, reuse: CacheChoice, /) -> ColumnRange:
        """Which columns to run: all that tells one cache from another."""
        raise NotImplementedError
