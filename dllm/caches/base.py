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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import is_
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from dllm.caches.prefill import pieces
from dllm.errors import ConfigError
from dllm.types import BlockCausal, Canvas, Geometry, Model, Part, Query, Rows, Seen, Store, Window

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
        first = torch.where(moved.cpu() == torch.arange(t), t, torch.arange(t)).amin(1)
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


class Course(NamedTuple):
    """What a step is going to run.

    reach   the columns of each row
    fresh   (b,) bool  host; rows whose predictions will rest on nothing stale
    memory  what the cache remembers afterwards, but for the keys and values
    """

    reach: Reach
    fresh: Tensor
    memory: Memory


class PlannedCache:
    """Base of the caches that say which columns a step runs before it is run, and do nothing else in it.

    What such a step shows depends on the tokens run, and on what is stored of the columns that are not; so a wrapper
    can foresee it.
    """

    def plan(self, model: Model, canvas: Canvas, window: Window, memory: Memory, /) -> Course:
        """What a step would run; nothing is run or stored."""
        raise NotImplementedError

    def step(self, model: Model, canvas: Canvas, window: Window, memory: Memory, /) -> tuple[Seen, Memory]:
        course = self.plan(model, canvas, window, memory)
        ran, memory = run(model, canvas, window, course.reach, course.memory)
        return Seen(ran.hidden, ran.queries, course.fresh, ran.shadow), memory


class Reuse(NamedTuple):
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
class StoredCache(PlannedCache):
    """Base of the caches that store.

    refresh  refresh a row at least every so many forwards; None: only on entering a block
    """

    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise ConfigError(f"{type(self).__name__}(refresh={self.refresh}): refresh must be at least 1 or None")

    def init(self, canvas: Canvas, model: Model, /) -> Memory:
        b, t = canvas.tokens.shape
        return Memory.blank(b, model.store(t))

    def plan(self, model: Model, canvas: Canvas, window: Window, memory: Memory, /) -> Course:
        block_causal = isinstance(model.geometry, BlockCausal)
        ends = window.block_end if block_causal else canvas.rows.length
        refresh = self.due(window, memory)
        if block_causal:
            refresh = refresh | (memory.exact < window.block_start)
        last = memory.last
        if last is not None and last.lasts(canvas, window) and not any((refresh & last.runs).tolist()):
            return Course(last.reach, last.fresh, memory._replace(since=memory.since + last.runs))
        left, block, first = window.start, window.block_start, None
        if model.needs_left:
            first = window.first if window.answer is None else None
            predicted = window.end > window.start if first is None else first
            left = torch.where(predicted, left - model.needs_left, left).clamp(min=0)
            block = torch.minimum(block, left)
        start, end, skip = self.reach(
            Reuse(
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
        reach = Reach(start, end, skip)
        fresh = runs & (start <= memory.exact) & (end >= ends)
        if skip is not None:
            fresh = fresh & (left_out(reach) == 0)
        exact = torch.where(fresh, window.block_start, memory.exact) if block_causal else memory.exact
        since = torch.where(runs, torch.where(refresh, 0, memory.since) + 1, memory.since)
        last = None
        if memory.log is None and not any((refresh & runs).tolist()):
            last = Last(range_of(window), first, canvas.rows, reach, runs, fresh)
        return Course(reach, fresh, memory._replace(exact=exact, since=since, last=last))

    def due(self, window: Window, memory: Memory) -> Tensor:
        """Rows (b,) to refresh now."""
        return window.entered | window.commit | (memory.since >= (NEVER if self.refresh is None else self.refresh))

    def reach(self, reuse: Reuse, /) -> Reach:
        """Which columns to run: all that tells one cache from another."""
        raise NotImplementedError


class Ran(NamedTuple):
    """What a forward gave.

    hidden   (b, k, d)        states of the window's slots
    queries  (b,) int64       host; columns run for each row, with everything that a step runs beside them
    shadow   (b, k, d)        states that do not see their own slot, if the window asks for them
    """

    hidden: Tensor
    queries: Tensor
    shadow: Tensor | None = None


def run(model: Model, canvas: Canvas, window: Window, reach: Reach, memory: Memory) -> tuple[Ran, Memory]:
    """One forward of each row over its columns `reach`, all rows together or in two parts."""
    last = memory.last
    if last is not None and last.asked is not None and last.reach is reach:
        return run_again(model, canvas, last.asked, memory), memory
    b, k = window.columns.shape
    queries = reach.end - reach.start
    if not any(queries.tolist()):
        nothing = torch.zeros(b, k, 1, device=canvas.tokens.device)
        return Ran(nothing, torch.zeros_like(queries), nothing if window.shadow else None), memory
    if reach.skip is not None:
        skipped = left_out(reach)
        queries = queries - skipped
        reach = reach if bool(skipped.any()) else reach._replace(skip=None)
    active, memory = rows_to_run(window, reach, memory)
    parts = apart(model, active, queries)
    shown = [look(model, canvas, window, rows, reach, memory) for rows in parts]
    hidden = spread([some.hidden for some in shown], parts, b)
    shadow = spread([some.shadow for some in shown], parts, b) if window.shadow else None
    if window.shadow:
        queries = queries + torch.where(reach.end > reach.start, window.end - window.start, 0)
    lanes = getattr(model, "lanes", 1)
    queries = queries if lanes == 1 else queries * lanes
    if last is not None and last.reach is reach and len(parts) == 1 and shown[0].once and not window.shadow:
        asked = Asked(shown[0].query, parts[0], shown[0].place, queries)
        memory = memory._replace(last=replace(last, asked=asked))
    return Ran(hidden, queries, shadow), memory


def run_again(model: Model, canvas: Canvas, asked: Asked, memory: Memory) -> Ran:
    """The forward of the step before, over what is on the canvas now."""
    query = asked.query._replace(tokens=tokens_at(canvas, asked.rows, asked.query))
    hidden = at(model.forward(query, memory.store), asked.place)
    return Ran(spread([hidden], [asked.rows], canvas.tokens.shape[0]), asked.queries)


def apart(model: Model, rows: Tensor, queries: Tensor) -> list[Tensor]:
    """Which rows (host indices) go through the model together: all, or those with few columns to run (`queries` (b,))
    and those with many, if that saves more columns than the model's `apart`."""
    worth = getattr(model, "apart", None)
    if worth is None or len(rows) == 1:
        return [rows]
    size = of_rows(queries, rows)
    most, n = int(size.max()), len(rows)
    if n * most - int(size.sum()) <= worth:
        return [rows]
    size, order = size.sort()
    count = torch.arange(1, n)
    cost = torch.where(size[:-1] > 0, count * size[:-1], 0) + (n - count) * most
    few = int(cost.argmin()) + 1
    if n * most - int(cost[few - 1]) <= worth:
        return [rows]
    parts = order[:few][size[:few] > 0], order[few:]
    return [rows[part.sort().values] for part in parts if len(part)]


class Look(NamedTuple):
    """What a model showed of some rows, and what it was asked.

    hidden  (r, k, d)  states of the window's slots
    shadow  (r, k, d)  those of their shadow slots, if there are any
    query   what it was asked last
    place   where the window's slots lie in what it showed then
    once    it was asked nothing before
    """

    hidden: Tensor
    shadow: Tensor
    query: Query
    place: slice | Tensor
    once: bool


def look(model: Model, canvas: Canvas, window: Window, rows: Tensor, reach: Reach, memory: Memory) -> Look:
    """What the model shows of the window in some rows."""
    left = store_ahead(model, canvas, window, rows, reach, memory)
    query = ask(model, canvas, rows, left, memory)
    out = model.forward(shadowed(model, canvas, window, rows, query) if window.shadow else query, memory.store)
    place = find(window, rows, query, model.needs_left, even=left.skip is None)
    return Look(at(out, place), out[:, query.tokens.shape[1] :], query, place, left is reach)


def ask(model: Model, canvas: Canvas, rows: Tensor, reach: Reach, memory: Memory) -> Query:
    """The query for the columns `reach` of some rows, which says which these are of those in the store."""
    query = aim(model.geometry, canvas, rows, reach)
    if memory.store is None or len(rows) == len(memory.rows):
        return query
    return query._replace(part=Part(torch.searchsorted(memory.rows, rows), len(memory.rows)))


def store_ahead(model: Model, canvas: Canvas, window: Window, rows: Tensor, reach: Reach, memory: Memory) -> Reach:
    """Run what some rows only store in pieces, if there is more than the model's `chunk` (block-causal models): then a
    long prompt needs no more memory than its keys and values. What is left to run, the window with it."""
    chunk, geometry = getattr(model, "chunk", None), model.geometry
    if chunk is None or memory.store is None or reach.skip is not None or not isinstance(geometry, BlockCausal):
        return reach
    there = torch.zeros_like(reach.end).index_fill_(0, rows, 1)
    start, end = reach.start * there, reach.end * there
    if int((end - start).max()) <= chunk:
        return reach
    *earlier, (start, end) = pieces(geometry, start, end, window.start - model.needs_left, chunk)
    for piece in earlier:
        model.forward(ask(model, canvas, rows, Reach(*piece), memory), memory.store)
    return Reach(start, end)


def left_out(reach: Reach) -> Tensor:
    """Columns (b,) of each row's range that are not run (host)."""
    assert reach.skip is not None
    return reach.end - reach.start - covered(reach, reach.skip.shape[1]).sum(1)


def covered(reach: Reach, t: int) -> Tensor:
    """The columns (b, t) that are run (host)."""
    column = torch.arange(t)
    inside = (column >= rearrange(reach.start, "b -> b 1")) & (column < rearrange(reach.end, "b -> b 1"))
    return inside if reach.skip is None else inside & ~reach.skip


def rows_to_run(window: Window, reach: Reach, memory: Memory) -> tuple[Tensor, Memory]:
    """Rows (host indices) that a forward runs: all that the store holds, and closed rows leave it; without a store
    those that have something to run."""
    if memory.store is None:
        return torch.nonzero(reach.end > reach.start).flatten(), memory
    closed = of_rows(window.closed, memory.rows)
    if any(closed.tolist()):
        kept = torch.nonzero(~closed).flatten()
        memory.store.keep(kept)
        memory = memory._replace(rows=memory.rows[kept])
    return memory.rows, memory


def find(window: Window, rows: Tensor, query: Query, left: int, even: bool) -> slice | Tensor:
    """Where the window's slots in some rows lie among the columns (r, q) of a query: a span, or (r, k).

    left  the model's `needs_left`
    even  no column was left out
    """
    first, k, q = of_rows(window.start, rows).tolist(), window.columns.shape[1], query.columns.shape[1]
    if query.start is not None and len(set(first)) == 1:
        begin = first[0] - left - query.start
        if 0 <= begin <= q - k:
            return slice(begin, begin + k)
    columns = of_rows(window.columns, rows) - left
    place = columns - query.columns[:, :1]
    if not even:
        ran = torch.where(query.valid, query.columns, torch.iinfo(torch.int64).max)
        place = torch.searchsorted(ran, columns.contiguous())
    return place.clamp(0, q - 1)


def at(out: Tensor, place: slice | Tensor) -> Tensor:
    """States (r, k, d) at some places of what a model showed (r, q, d)."""
    if isinstance(place, slice):
        return out.narrow(1, place.start, place.stop - place.start)
    return out.gather(1, repeat(place, "r k -> r k d", d=out.shape[-1]))


def of_rows(plane: Tensor, rows: Tensor) -> Tensor:
    """Some rows (host indices, in order) of a tensor (b, …), without a copy if these are all."""
    return plane if len(rows) == len(plane) else plane[rows.to(plane.device, non_blocking=True)]


def spread(states: Sequence[Tensor], rows: Sequence[Tensor], b: int) -> Tensor:
    """States (r, k, d) of some rows, part by part, as (b, k, d); zeros elsewhere."""
    if len(rows[0]) == b:
        return states[0]
    full = states[0].new_zeros(b, *states[0].shape[1:])
    for some, there in zip(states, rows, strict=True):
        full.index_copy_(0, there.to(full.device, non_blocking=True), some)
    return full


def tokens_at(canvas: Canvas, rows: Tensor, query: Query) -> Tensor:
    """What the canvas holds (r, q) at the columns of a query."""
    tokens = of_rows(canvas.tokens, rows)
    if query.start is None:
        return tokens.gather(1, query.columns)
    return tokens[:, query.start : query.start + query.columns.shape[1]]


def aim(geometry: Geometry, canvas: Canvas, rows: Tensor, reach: Reach) -> Query:
    """The query for the columns `reach` of some rows (all host)."""
    start, end, length = (of_rows(x, rows) for x in (reach.start, reach.end, canvas.rows.length))
    tokens, given = of_rows(canvas.tokens, rows), of_rows(canvas.rows.given, rows)
    device = tokens.device
    first: int | None = None
    spans = list(zip(start.tolist(), end.tolist(), strict=True))
    if reach.skip is None and len(set(spans)) == 1:
        first, stop = spans[0]
        line = torch.arange(first, stop)
        width, mask = sight(geometry, line.expand(len(rows), -1), spans, length)
        columns = line.to(device, non_blocking=True).expand(len(rows), -1)
        valid = torch.ones(columns.shape, dtype=torch.bool, device=device)
        tokens, given = tokens[:, first:stop], given[:, first:stop]
    else:
        columns, valid = ranges(start, end) if reach.skip is None else pick(start, end, of_rows(reach.skip, rows))
        width, mask = sight(geometry, columns, spans, length)
        columns = torch.where(valid, columns, 0)
        given = given.gather(1, columns)
        columns, valid = columns.to(device, non_blocking=True), valid.to(device, non_blocking=True)
        tokens = tokens.gather(1, columns)
    mask = mask if mask is None else mask.to(device, non_blocking=True)
    return Query(tokens, columns, valid, width, mask, first, given=given.to(device, non_blocking=True))


def sight(
    geometry: Geometry, columns: Tensor, spans: Sequence[tuple[int, int]], length: Tensor
) -> tuple[int, Tensor | None]:
    """Keys that are looked at, and which of them each of the columns (r, q) sees; None where all see all.

    spans  first and last column, past the end, that each row runs

    A column sees no less than one left of it, so the ends of a row's span tell whether all in it see the same.
    """
    asked = {
        (geometry.edge(start, row), geometry.edge(end - 1, row))
        for (start, end), row in zip(spans, length.tolist(), strict=True)
        if end > start
    }
    width = max(last for _, last in asked)
    if min(first for first, _ in asked) == width:
        return width, None
    same = all(first == last for first, last in asked)
    limits = geometry.reach(columns[:, :1] if same else columns, length)
    mask = torch.arange(width) < rearrange(limits.clamp(min=1), "r q -> r q 1")
    return width, rearrange(mask, "r q w -> r 1 q w")


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
    left of the column, in whose place it sees itself; other shadow slots it does not see, since these hold tokens.
    What the column has told others in the layers below is not unsaid: the prediction is without the column itself, not
    without all that follows from it.

    Reference: Hong et al. 2025, WINO (arXiv:2507.18578), for models without token shift and without a cache.
    """
    device = canvas.tokens.device
    there = rows.to(device)
    left = model.needs_left
    target, valid = window.columns[there], window.valid[there]
    columns = torch.where(valid, (target - left).clamp(min=0), 0)
    blank = model.mask_id if model.mask_id is not None else 0
    tokens = canvas.tokens[there].gather(1, columns) if left else torch.full_like(columns, blank)
    held = canvas.rows.given[rows].to(device).gather(1, columns) & bool(left)
    k, q, width = columns.shape[1], query.tokens.shape[1], query.width
    keys = torch.arange(width, device=device)
    places = (rearrange(window.start[rows], "r -> r 1") + torch.arange(k) - left).clamp(min=0)
    limits = rearrange(model.geometry.reach(places, canvas.rows.length[rows]), "r k -> r k 1").to(device)
    sees = (keys < limits) & (keys != rearrange(target, "r k -> r k 1")) & (keys != rearrange(columns, "r k -> r k 1"))
    others = rearrange(valid & (not left), "r k -> r 1 k") & (rearrange(columns, "r k -> r 1 k") < limits)
    lower = torch.cat([sees, others | torch.eye(k, dtype=torch.bool, device=device)], 2)
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
        given=None if query.given is None else torch.cat([query.given, held], 1),
    )
