"""What all caches share: run some columns of each row, keep keys and values, show the window what was seen.

A cache is decided by two numbers per row and step: the first column that is run and the one past the last. Whatever
is run is stored in place and everything stored is looked at. `NoCache`, `PrefixCache` and `DualCache` differ only in
these two numbers, for both geometries of attention:

    bidirectional   a refresh runs the whole row
    block-causal    a refresh runs the current block, and before it whatever finished block is not stored yet
                    (finished blocks are exact: their keys and values never change again)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from dllm.errors import ConfigError
from dllm.types import BlockCausal, Canvas, Geometry, Model, Query, Seen, Store, Window


class Memory(NamedTuple):
    """What a cache remembers.

    store  keys and values of the rows in `rows`, or None where nothing is kept
    rows   (r,) int64  host; rows of the batch that the store still holds
    exact  (b,) int64  host; columns [0, exact) are stored and can never change (always 0 when bidirectional)
    since  (b,) int64  host; forwards since the row was last refreshed
    """

    store: Store | None
    rows: Tensor
    exact: Tensor
    since: Tensor


class Reach(NamedTuple):
    """Columns [start, end) to run for each row (host).

    skip  (b, t) bool or None  columns in between that are left out; never one that the window predicts
    """

    start: Tensor
    end: Tensor
    skip: Tensor | None = None


class Reuse(NamedTuple):
    """What a cache chooses from, for each row (b,) (host).

    refresh  the row is refreshed now
    whole    first column of a refresh
    block    first column of the current block, with what a shifted model needs left of it
    left     first column of the window, likewise
    window   one past the window's last column
    ends     one past the last column of a refresh
    """

    refresh: Tensor
    whole: Tensor
    block: Tensor
    left: Tensor
    window: Tensor
    ends: Tensor


@dataclass(frozen=True)
class StoredCache:
    """Base of the caches. `refresh`: refresh a row at least every so many forwards (None: only on entering a block)."""

    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise ConfigError(f"{type(self).__name__}(refresh={self.refresh}): refresh must be at least 1 or None")

    def init(self, canvas: Canvas, model: Model, /) -> Memory:
        b, t = canvas.tokens.shape
        zeros = torch.zeros(b, dtype=torch.int64)
        return Memory(model.store(t), torch.arange(b), zeros, zeros)

    def step(self, model: Model, canvas: Canvas, window: Window, memory: Memory, /) -> tuple[Seen, Memory]:
        block_causal = isinstance(model.geometry, BlockCausal)
        ends = window.block_end if block_causal else canvas.rows.length
        refresh = self.due(window, memory)
        if block_causal:
            refresh = refresh | (memory.exact < window.block_start)
        predicted = window.first if window.answer is None else window.end > window.start
        left = torch.where(predicted, window.start - model.needs_left, window.start).clamp(min=0)
        start, end, skip = self.reach(
            Reuse(
                refresh=refresh,
                whole=torch.minimum(memory.exact, left),
                block=torch.minimum(window.block_start, left),
                left=left,
                window=window.end,
                ends=ends,
            )
        )
        runs = ((window.end > window.start) | window.commit) & (end > start)
        start, end = torch.where(runs, start, 0), torch.where(runs, end, 0)
        ran, memory = run(model, canvas, window, Reach(start, end, skip), memory)

        fresh = runs & (start <= memory.exact) & (end >= ends) & ran.whole
        exact = torch.where(fresh, window.block_start, memory.exact) if block_causal else memory.exact
        since = torch.where(runs, torch.where(refresh, 0, memory.since) + 1, memory.since)
        return Seen(ran.hidden, ran.queries, fresh, ran.shadow), memory._replace(exact=exact, since=since)

    def due(self, window: Window, memory: Memory) -> Tensor:
        """Rows (b,) to refresh now."""
        due = window.entered | window.commit
        return due if self.refresh is None else due | (memory.since >= self.refresh)

    def reach(self, reuse: Reuse, /) -> Reach:
        """Which columns to run: all that tells one cache from another."""
        raise NotImplementedError


class Ran(NamedTuple):
    """What a forward gave.

    hidden   (b, k, d)        states of the window's slots
    queries  (b,) int64       host; columns run for each row, with everything that a step runs beside them
    whole    (b,) bool        host; no column of the row's range was left out
    shadow   (b, k, d)        states that do not see their own slot, if the window asks for them
    """

    hidden: Tensor
    queries: Tensor
    whole: Tensor
    shadow: Tensor | None = None


def run(model: Model, canvas: Canvas, window: Window, reach: Reach, memory: Memory) -> tuple[Ran, Memory]:
    """One forward over the columns `reach` of each row."""
    b, k = window.columns.shape
    busy = reach.end > reach.start
    skipped = torch.zeros_like(reach.end) if reach.skip is None else count(reach)
    if not bool(busy.any()):
        nothing = torch.zeros(b, k, 1, device=canvas.tokens.device)
        return Ran(nothing, torch.zeros_like(reach.end), busy, nothing if window.shadow else None), memory
    active, memory = rows_to_run(window, busy, memory)
    query = aim(model.geometry, canvas, active, reach)
    q = query.tokens.shape[1]
    out = model.forward(shadowed(model, canvas, window, active, query) if window.shadow else query, memory.store)
    columns = window.columns[active.to(window.columns.device)] - model.needs_left
    hidden = spread(find(out[:, :q], columns, query, even=reach.skip is None), active, b)
    shadow = spread(out[:, q:], active, b) if window.shadow else None
    queries = reach.end - reach.start - skipped
    if window.shadow:
        queries = queries + torch.where(busy, window.end - window.start, 0)
    return Ran(hidden, queries * getattr(model, "lanes", 1), skipped == 0, shadow), memory


def count(reach: Reach) -> Tensor:
    """Columns (b,) of each row's range that are left out (host)."""
    assert reach.skip is not None
    column = torch.arange(reach.skip.shape[1])
    inside = (column >= rearrange(reach.start, "b -> b 1")) & (column < rearrange(reach.end, "b -> b 1"))
    return (reach.skip & inside).sum(1)


def rows_to_run(window: Window, busy: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Rows (host indices) that a forward runs: all that the store holds, and closed rows leave it; without a store
    those that have something to run."""
    if memory.store is None:
        return torch.nonzero(busy).flatten(), memory
    kept = torch.nonzero(~window.closed[memory.rows]).flatten()
    if len(kept) < len(memory.rows):
        memory.store.keep(kept)
        memory = memory._replace(rows=memory.rows[kept])
    return memory.rows, memory


def find(out: Tensor, columns: Tensor, query: Query, even: bool) -> Tensor:
    """From states (r, q, d) of what was run to those of some columns (r, k, d); `even`: no column was left out."""
    place = columns - query.columns[:, :1]
    if not even:
        ran = torch.where(query.valid, query.columns, torch.iinfo(torch.int64).max)
        place = torch.searchsorted(ran, columns.contiguous())
    return out.gather(1, repeat(place.clamp(0, out.shape[1] - 1), "r k -> r k d", d=out.shape[-1]))


def spread(states: Tensor, rows: Tensor, b: int) -> Tensor:
    """States (r, k, d) of some rows as (b, k, d), zeros elsewhere."""
    if len(rows) == b:
        return states
    full = states.new_zeros(b, *states.shape[1:])
    return full.index_copy(0, rows.to(full.device), states)


def aim(geometry: Geometry, canvas: Canvas, rows: Tensor, reach: Reach) -> Query:
    """The query for the columns `reach` of some rows (all host)."""
    device = canvas.tokens.device
    start, end = reach.start[rows], reach.end[rows]
    columns, valid = ranges(start, end) if reach.skip is None else pick(start, end, reach.skip[rows])
    busy = end > start
    limits = geometry.reach(columns, canvas.rows.length[rows])
    shown = limits[busy][valid[busy]]
    width = int(shown.max())
    mask = None
    if int(shown.min()) < width:
        same = bool((limits == limits[:, :1])[valid].all())
        seen = limits[:, :1] if same else limits
        mask = rearrange(torch.arange(width) < rearrange(seen.clamp(min=1), "r q -> r q 1"), "r q w -> r 1 q w")
        mask = mask.to(device, non_blocking=True)
    even = reach.skip is None and bool(valid.all()) and bool((start == start[0]).all())
    columns = torch.where(valid, columns, 0)
    given = canvas.rows.given[rows].gather(1, columns)
    columns = columns.to(device, non_blocking=True)
    everyone = len(rows) == len(canvas.tokens)
    tokens = canvas.tokens if everyone else canvas.tokens[rows.to(device)]
    return Query(
        tokens=tokens.gather(1, columns),
        columns=columns,
        valid=valid.to(device, non_blocking=True),
        width=width,
        mask=mask,
        start=int(start[0]) if even else None,
        given=given.to(device, non_blocking=True),
    )


def ranges(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (r, q) from start to end (r,) of each row, and which of them are meant."""
    columns = rearrange(start, "r -> r 1") + torch.arange(int((end - start).max()))
    return columns, columns < rearrange(end, "r -> r 1")


def pick(start: Tensor, end: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    """Likewise without those to `skip` (r, t)."""
    t = skip.shape[1]
    column = torch.arange(t)
    wanted = (column >= rearrange(start, "r -> r 1")) & (column < rearrange(end, "r -> r 1")) & ~skip
    columns = torch.where(wanted, column, t).sort(1).values[:, : max(1, int(wanted.sum(1).max()))]
    return columns, columns < t


def shadowed(model: Model, canvas: Canvas, window: Window, rows: Tensor, query: Query) -> Query:
    """The query with one more slot for each of the window's, which predicts the column without looking at it.

    A shadow slot holds the mask at its column's place, and sees what the column sees, but not the column itself, and
    the other shadow slots. Nothing else sees it and it is not stored. With a token-shifted model it holds the token
    left of the column and sees no shadow slot but itself, since these hold tokens.

    Reference: Hong et al. 2025, WINO (arXiv:2507.18578), for models without token shift and without a cache.
    """
    device = canvas.tokens.device
    there = rows.to(device)
    left = model.needs_left
    target, valid = window.columns[there], window.valid[there]
    columns = torch.where(valid, (target - left).clamp(min=0), 0)
    blank = model.mask_id if model.mask_id is not None else 0
    tokens = canvas.tokens[there].gather(1, columns) if left else torch.full_like(columns, blank)
    k, q, width = columns.shape[1], query.tokens.shape[1], query.width
    keys = torch.arange(width, device=device)
    limits = model.geometry.reach(target.cpu().clamp(max=canvas.tokens.shape[1] - 1), canvas.rows.length[rows])
    sees = keys < rearrange(limits.to(device).clamp(max=width), "r k -> r k 1")
    sees = sees & (keys != rearrange(target, "r k -> r k 1"))
    among = torch.eye(k, dtype=torch.bool, device=device) | (rearrange(valid, "r k -> r 1 k") & (not left))
    lower = torch.cat([sees, among.expand(len(rows), k, k)], 2)
    upper = torch.ones(len(rows), q, width, dtype=torch.bool, device=device)
    if query.mask is not None:
        upper = rearrange(query.mask, "r 1 q w -> r q w").expand_as(upper)
    upper = torch.cat([upper, torch.zeros(len(rows), q, k, dtype=torch.bool, device=device)], 2)
    return query._replace(
        tokens=torch.cat([query.tokens, tokens], 1),
        columns=torch.cat([query.columns, columns], 1),
        valid=torch.cat([query.valid, valid], 1),
        mask=rearrange(torch.cat([upper, lower], 1), "r q w -> r 1 q w"),
        extra=k,
        given=None if query.given is None else torch.cat([query.given, torch.zeros_like(valid)], 1),
    )
