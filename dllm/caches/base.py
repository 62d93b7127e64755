"""What all caches share: run some columns of each row, keep keys and values, show the window what was seen.

A cache is described by two numbers per row and step: the first column that is run and the one past the last (and, where
it leaves holes, by what is left out in between). Whatever is run is stored in place and everything stored is looked at.
The caches differ only in this, for both geometries of attention:

    bidirectional   a refresh runs the whole row
    block-causal    a refresh runs the current block, and before it the finished blocks that are not stored yet
                    (finished blocks are exact: their keys and values never change again)

What has changed since it was last run (decided, replaced or revoked) is stale in the store until it is run again. The
columns of a window are run in every step, so a column goes stale only when the window leaves it: until the next refresh
with `PrefixCache` (left of the block), `DualCache` and `VicinityCache` (out of reach of the window); for one step at
most with `SlidingCache` and `DelayedCache`, which run again all that the last window may have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.caches.memory import NEVER, CacheState, ColumnRange, LastForward, count_skipped_columns
from dllm.caches.running import run_forward
from dllm.errors import ConfigError
from dllm.types import Cache, Canvas, Model, Seen, Window


class ForwardPlan(NamedTuple):
    """The columns that a step is going to run.

    Attributes:
        reach: The columns of each row.
        fresh: Rows whose predictions will rest on nothing stale (host).
        state: What the cache remembers afterwards, but for the keys and values.
    """

    reach: ColumnRange
    fresh: Bool[Tensor, " b"]
    state: CacheState


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

    def plan(self, model: Model, canvas: Canvas, window: Window, state: CacheState, /) -> ForwardPlan:
        """Describe what a step would run; nothing is run or stored."""
        raise NotImplementedError

    def step(self, model: Model, canvas: Canvas, window: Window, state: CacheState, /) -> tuple[Seen, CacheState]:
        plan = self.plan(model, canvas, window, state)
        output, state = run_forward(model, canvas, window, plan.reach, plan.state)
        return Seen(output.hidden, output.queries, plan.fresh, output.shadow, output.probes), state

    def renew(
        self, state: CacheState, fresh: CacheState, rows: Bool[Tensor, " b"], renew_rows: Callable[..., Any], /
    ) -> Any:
        return renew_rows(state.readmit(rows), fresh, rows)

    def forget(self, state: CacheState, moved: Int[Tensor, "b t"], /) -> CacheState:
        return state.forget(moved)


class CacheChoice(NamedTuple):
    """The facts from which a cache chooses the columns of a step (host).

    Attributes:
        refresh: Rows that are refreshed now.
        whole: First column of a refresh.
        block: First column of the current block, with what a token-shifted model needs left of it.
        left: First column of the window, with the same addition.
        window: One past the window's last column.
        ends: One past the last column of a refresh.
        log: What the rows did so far, for caches that ask for it.
    """

    refresh: Bool[Tensor, " b"]
    whole: Int[Tensor, " b"]
    block: Int[Tensor, " b"]
    left: Int[Tensor, " b"]
    window: Int[Tensor, " b"]
    ends: Int[Tensor, " b"]
    log: Any = None


@dataclass(frozen=True)
class StoredCache(PlannedCache, hooks=("needs_refresh", "reach")):
    """Base class of the caches that store keys and values.

    Attributes:
        refresh: Forwards after which a row is refreshed at the latest. None: only on entering a block.
    """

    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise ConfigError(f"{type(self).__name__}(refresh={self.refresh}): refresh must be at least 1 or None")

    def init(self, canvas: Canvas, model: Model, /) -> CacheState:
        b, t = canvas.tokens.shape
        return CacheState.blank(b, model.store(t))

    def plan(self, model: Model, canvas: Canvas, window: Window, state: CacheState, /) -> ForwardPlan:
        block_causal = model.geometry.block is not None
        ends = window.block_end if block_causal else canvas.rows.length
        refresh = self.needs_refresh(window, state)
        if block_causal:
            # A finished block that is not stored yet has to be run before anything can look at it.
            refresh = refresh | (state.exact < window.block_start)
        last = state.last
        if last is not None and last.holds_for(window) and not any((refresh & last.runs).tolist()):
            return ForwardPlan(last.reach, last.fresh, state._replace(since=state.since + last.runs))
        reach, first = self._choose_columns(model, window, refresh, ends, state)
        runs = reach.end > reach.start
        # Nothing is stale where all that a refresh covers is run, and what lies left of it is exact.
        fresh = runs & (reach.start <= state.exact) & (reach.end >= ends)
        if reach.skip is not None:
            fresh = fresh & (count_skipped_columns(reach) == 0)
        # Once that has been run, the blocks before the current one are stored as they will stay: with block-causal
        # attention they look at finished text only.
        exact = torch.where(fresh, window.block_start, state.exact) if block_causal else state.exact
        since = torch.where(runs, torch.where(refresh, 0, state.since) + 1, state.since)
        last = None
        if state.log is None and not any((refresh & runs).tolist()):
            last = LastForward(first, reach, runs, fresh)
        return ForwardPlan(reach, fresh, state._replace(exact=exact, since=since, last=last))

    def _choose_columns(
        self, model: Model, window: Window, refresh: Bool[Tensor, " b"], ends: Int[Tensor, " b"], state: CacheState
    ) -> tuple[ColumnRange, Bool[Tensor, " b"] | None]:
        """Find the columns of a step, and the window's `first` where they depend on it."""
        left, block, first = window.start, window.block_start, None
        if model.needs_left:
            # The column left of the window predicts the window's first, so it is run where that one is predicted:
            # while it is pending, or always under a policy that judges decided slots too (`window.answer`).
            first = window.first if window.answer is None else None
            predicted = window.end > window.start if first is None else first
            left = torch.where(predicted, left - model.needs_left, left).clamp(min=0)
            block = torch.minimum(block, left)
        start, end, skip = self.reach(
            CacheChoice(
                refresh=refresh,
                whole=state.exact if model.geometry.block is None else torch.minimum(state.exact, left),
                block=block,
                left=left,
                window=window.end,
                ends=ends,
                log=state.log,
            )
        )
        runs = ((window.end > window.start) | window.commit) & (end > start)
        return ColumnRange(torch.where(runs, start, 0), torch.where(runs, end, 0), skip), first

    def needs_refresh(self, window: Window, state: CacheState) -> Bool[Tensor, " b"]:
        """Find the rows to refresh now (host)."""
        return window.entered | window.commit | (state.since >= (NEVER if self.refresh is None else self.refresh))

    def reach(self, reuse: CacheChoice, /) -> ColumnRange:
        """Choose the columns to run: all in which one cache differs from another."""
        raise NotImplementedError
