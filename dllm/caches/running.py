"""One forward over some columns of each row: what the model is asked, and where the window lies in what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.caches.memory import CacheState, ColumnRange, ReusableQuery, count_skipped_columns
from dllm.caches.prefill import split_into_chunks
from dllm.transfer import to_device
from dllm.types import Canvas, Geometry, Model, Probe, Query, RowSubset, Window


class ForwardOutput(NamedTuple):
    """What a forward gave.

    hidden   (b, k, d)        states of the window's slots
    queries  (b,) int64       host; columns run for each row, with everything that a step runs beside them
    shadow   (b, k, d)        states that do not see their own slot, if the window asks for them
    probes   (b, k, …)        probes that the window asks for
    """

    hidden: Tensor
    queries: Tensor
    shadow: Tensor | None = None
    probes: Mapping[Probe, Tensor] = {}


def run_forward(
    model: Model, canvas: Canvas, window: Window, reach: ColumnRange, memory: CacheState
) -> tuple[ForwardOutput, CacheState]:
    """One forward of each row over its columns `reach`, all rows together or in two parts."""
    last = memory.last
    if last is not None and last.asked is not None and last.reach is reach:
        return _rerun_forward(model, canvas, last.asked, memory), memory
    b, k = window.columns.shape
    queries = reach.end - reach.start
    if not any(queries.tolist()):
        nothing = torch.zeros(b, k, 1, device=canvas.tokens.device)
        return ForwardOutput(nothing, torch.zeros_like(queries), nothing if window.shadow else None), memory
    if reach.skip is not None:
        skipped = count_skipped_columns(reach)
        queries = queries - skipped
        reach = reach if bool(skipped.any()) else reach._replace(skip=None)
    active, memory = _rows_to_run(window, reach, memory)
    parts = split_rows_by_length(model, active, queries)
    shown = [_forward_rows(model, canvas, window, rows, reach, memory) for rows in parts]
    hidden = _scatter_rows([some.hidden for some in shown], parts, b)
    shadow = _scatter_rows([some.shadow for some in shown], parts, b) if window.shadow else None
    if window.shadow:
        queries = queries + torch.where(reach.end > reach.start, window.end - window.start, 0)
    queries = queries if model.lanes == 1 else queries * model.lanes
    probes = {probe: _scatter_rows([some.probes[probe] for some in shown], parts, b) for probe in window.probes}
    if (
        last is not None
        and last.reach is reach
        and len(parts) == 1
        and shown[0].once
        and not (window.shadow or window.probes)
    ):
        asked = ReusableQuery(shown[0].query, parts[0], shown[0].place, queries)
        memory = memory._replace(last=replace(last, asked=asked))
    return ForwardOutput(hidden, queries, shadow, probes), memory


def _rerun_forward(model: Model, canvas: Canvas, asked: ReusableQuery, memory: CacheState) -> ForwardOutput:
    """The forward of the step before, over what is on the canvas now."""
    query = asked.query._replace(tokens=_canvas_tokens_at(canvas, asked.rows, asked.query))
    hidden = _states_at(model.forward(query, memory.store), asked.place)
    return ForwardOutput(_scatter_rows([hidden], [asked.rows], canvas.tokens.shape[0]), asked.queries)


def split_rows_by_length(model: Model, rows: Tensor, queries: Tensor) -> list[Tensor]:
    """Which rows (host indices) go through the model together: all, or those with few columns to run (`queries` (b,))
    and those with many, if that saves more columns than the model's
    `forward_overhead_columns`. Rows with no more than the model's `undivided_columns` are never split off."""
    worth = model.forward_overhead_columns
    if worth is None or len(rows) == 1:
        return [rows]
    size = _select_rows(queries, rows)
    most, n = int(size.max()), len(rows)
    if most <= model.undivided_columns or n * most - int(size.sum()) <= worth:
        return [rows]
    size, order = size.sort()
    count = torch.arange(1, n)
    cost = torch.where(size[:-1] > 0, count * size[:-1], 0) + (n - count) * most
    few = int(cost.argmin()) + 1
    if n * most - int(cost[few - 1]) <= worth:
        return [rows]
    parts = order[:few][size[:few] > 0], order[few:]
    return [rows[part.sort().values] for part in parts if len(part)]


class _RowOutput(NamedTuple):
    """What a model showed of some rows, and what it was asked.

    hidden  (r, k, d)  states of the window's slots
    shadow  (r, k, d)  those of their shadow slots, if there are any
    query   what it was asked last
    place   where the window's slots lie in what it showed then
    once    it was asked nothing before
    probes  (r, k, …)  what the probes show of the window's slots
    """

    hidden: Tensor
    shadow: Tensor
    query: Query
    place: slice | Tensor
    once: bool
    probes: Mapping[Probe, Tensor]


def _forward_rows(
    model: Model, canvas: Canvas, window: Window, rows: Tensor, reach: ColumnRange, memory: CacheState
) -> _RowOutput:
    """What the model shows of the window in some rows."""
    left = _store_in_chunks(model, canvas, window, rows, reach, memory)
    query = _build_rows_query(model, canvas, window, rows, left, memory)
    asked = _add_shadow_slots(model, canvas, window, rows, query) if window.shadow else query
    found: Mapping[Probe, Tensor] = {}
    if window.probes:
        out, found = model.forward_with_probes(asked, memory.store, window.probes, canvas.tokens.shape[1])
    else:
        out = model.forward(asked, memory.store)
    place = _locate_window(window, rows, query, model.needs_left, even=left.skip is None)
    return _RowOutput(
        hidden=_states_at(out, place),
        shadow=out[:, query.tokens.shape[1] :],
        query=query,
        place=place,
        once=left is reach,
        probes={probe: _states_at(value, place) for probe, value in found.items()},
    )


def _build_rows_query(
    model: Model, canvas: Canvas, window: Window, rows: Tensor, reach: ColumnRange, memory: CacheState
) -> Query:
    """The query for the columns `reach` of some rows, which says which these are of those in the store."""
    query = build_query(model.geometry, canvas, rows, reach, window.block_start)
    if memory.store is None or len(rows) == len(memory.rows):
        return query
    return query._replace(subset=RowSubset(torch.searchsorted(memory.rows, rows), len(memory.rows)))


def _store_in_chunks(
    model: Model, canvas: Canvas, window: Window, rows: Tensor, reach: ColumnRange, memory: CacheState
) -> ColumnRange:
    """Run what some rows only store in pieces, if there is more than the model's `chunk` (block-causal models): then a
    long prompt needs no more memory than its keys and values. What is left to run, the window with it."""
    chunk, geometry = model.chunk, model.geometry
    if chunk is None or memory.store is None or reach.skip is not None or geometry.block is None:
        return reach
    there = torch.zeros_like(reach.end).index_fill_(0, rows, 1)
    start, end = reach.start * there, reach.end * there
    if int((end - start).max()) <= chunk:
        return reach
    *earlier, (start, end) = split_into_chunks(geometry, start, end, window.start - model.needs_left, chunk)
    for piece in earlier:
        model.forward(_build_rows_query(model, canvas, window, rows, ColumnRange(*piece), memory), memory.store)
    return ColumnRange(start, end)


def _rows_to_run(window: Window, reach: ColumnRange, memory: CacheState) -> tuple[Tensor, CacheState]:
    """Rows (host indices) that a forward runs: all that the store holds, and closed rows leave it; without a store
    those that have something to run."""
    if memory.store is None:
        return torch.nonzero(reach.end > reach.start).flatten(), memory
    closed = _select_rows(window.closed, memory.rows)
    if any(closed.tolist()):
        kept = torch.nonzero(~closed).flatten()
        memory.store.keep(kept)
        memory = memory._replace(rows=memory.rows[kept])
    return memory.rows, memory


def _locate_window(window: Window, rows: Tensor, query: Query, left: int, even: bool) -> slice | Tensor:
    """Where the window's slots in some rows lie among the columns (r, q) of a query: a span, or (r, k).

    left  the model's `needs_left`
    even  no column was left out
    """
    first, k, q = _select_rows(window.start, rows).tolist(), window.columns.shape[1], query.columns.shape[1]
    if query.start is not None and len(set(first)) == 1:
        begin = first[0] - left - query.start
        if 0 <= begin <= q - k:
            return slice(begin, begin + k)
    columns = _select_rows(window.columns, rows) - left
    place = columns - query.columns[:, :1]
    if not even:
        ran = torch.where(query.valid, query.columns, torch.iinfo(torch.int64).max)
        place = torch.searchsorted(ran, columns.contiguous())
    return place.clamp(0, q - 1)


def _states_at(out: Tensor, place: slice | Tensor) -> Tensor:
    """States (r, k, d) at some places of what a model showed (r, q, d)."""
    if isinstance(place, slice):
        k = place.stop - place.start
        return out if k == out.shape[1] else out.narrow(1, place.start, k)
    index = place.view(*place.shape, *[1] * (out.dim() - 2)).expand(*place.shape, *out.shape[2:])
    return out.gather(1, index)


def _select_rows(plane: Tensor, rows: Tensor) -> Tensor:
    """Some rows (host indices, in order) of a tensor (b, …), without a copy if these are all."""
    return plane if len(rows) == len(plane) else plane[to_device(rows, plane.device)]


def _scatter_rows(states: Sequence[Tensor], rows: Sequence[Tensor], b: int) -> Tensor:
    """States (r, k, d) of some rows, part by part, as (b, k, d); zeros elsewhere."""
    if len(rows[0]) == b:
        return states[0]
    full = states[0].new_zeros(b, *states[0].shape[1:])
    for some, there in zip(states, rows, strict=True):
        full.index_copy_(0, to_device(there, full.device), some)
    return full


def _canvas_tokens_at(canvas: Canvas, rows: Tensor, query: Query) -> Tensor:
    """What the canvas holds (r, q) at the columns of a query."""
    tokens = _select_rows(canvas.tokens, rows)
    if query.start is None:
        return tokens.gather(1, query.columns)
    return tokens.narrow(1, query.start, query.columns.shape[1])


def build_query(geometry: Geometry, canvas: Canvas, rows: Tensor, reach: ColumnRange, stored: Tensor) -> Query:
    """Build the query for the columns `reach` of some rows; columns left of `stored` (b,) are of finished blocks (host)."""
    facts = (reach.start, reach.end, canvas.rows.length, stored)
    start, end, length, stored = (_select_rows(x, rows) for x in facts)
    tokens, given = _select_rows(canvas.tokens, rows), _select_rows(canvas.rows.given, rows)
    device = tokens.device
    first: int | None = None
    spans = list(zip(start.tolist(), end.tolist(), strict=True))
    if reach.skip is None and len(set(spans)) == 1:
        first, stop = spans[0]
        line = torch.arange(first, stop)
        width, mask = _visibility_mask(geometry, line.expand(len(rows), -1), spans, length, stored)
        columns = to_device(line, device).expand(len(rows), -1)
        valid = torch.ones(columns.shape, dtype=torch.bool, device=device)
        tokens, given = tokens[:, first:stop], given[:, first:stop]
    else:
        columns, valid = (
            _column_ranges(start, end)
            if reach.skip is None
            else _columns_without_skipped(start, end, _select_rows(reach.skip, rows))
        )
        width, mask = _visibility_mask(geometry, columns, spans, length, stored)
        columns = torch.where(valid, columns, 0)
        given = given.gather(1, columns)
        columns, valid = to_device(columns, device), to_device(valid, device)
        tokens = tokens.gather(1, columns)
    mask = mask if mask is None else to_device(mask, device)
    return Query(tokens, columns, valid, width, mask, first, given=to_device(given, device))


def _visibility_mask(
    geometry: Geometry, columns: Tensor, spans: Sequence[tuple[int, int]], length: Tensor, stored: Tensor
) -> tuple[int, Tensor | None]:
    """Keys that are looked at, and which of them each of the columns (r, q) sees; None where all see all.

    spans  first and last column, past the end, that each row runs

    A column sees no less than one left of it, so the ends of a row's span tell whether all in it see the same.
    """
    asked = {
        (geometry.visible_end_at(start, row, done), geometry.visible_end_at(end - 1, row, done))
        for (start, end), row, done in zip(spans, length.tolist(), stored.tolist(), strict=True)
        if end > start
    }
    width = max(last for _, last in asked)
    if min(first for first, _ in asked) == width:
        return width, None
    same = all(first == last for first, last in asked)
    limits = geometry.visible_end(columns[:, :1] if same else columns, length, stored)
    mask = torch.arange(width) < rearrange(limits.clamp(min=1), "r q -> r q 1")
    return width, rearrange(mask, "r q w -> r 1 q w")


def _column_ranges(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (r, q) from start to end (r,) of each row, and which of them are meant."""
    columns = rearrange(start, "r -> r 1") + torch.arange(int((end - start).max()))
    return columns, columns < rearrange(end, "r -> r 1")


def _columns_without_skipped(start: Tensor, end: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    """Likewise without those to `skip` (r, t)."""
    t = skip.shape[1]
    column = torch.arange(t)
    wanted = (column >= rearrange(start, "r -> r 1")) & (column < rearrange(end, "r -> r 1")) & ~skip
    columns = torch.where(wanted, column, t).sort(1).values[:, : max(1, int(wanted.sum(1).max()))]
    return columns, columns < t


def _add_shadow_slots(model: Model, canvas: Canvas, window: Window, rows: Tensor, query: Query) -> Query:
    """The query with one more slot for each of the window's, which predicts the column without looking at it.

    A shadow slot holds the mask at its column's place, and sees what the column sees, but not the column itself, and
    the other shadow slots. Nothing else sees it and it is not stored. With a token-shifted model it holds the token
    left of the column, in whose place it sees itself; other shadow slots it does not see, since these hold tokens.
    What the column has told others in the layers below is not unsaid: the prediction is without the column itself, not
    without all that follows from it.

    Reference: Hong et al. 2025, WINO (arXiv:2507.18578), for models without token shift and without a cache.
    """
    device = canvas.tokens.device
    there = to_device(rows, device)
    left = model.needs_left
    target, valid = window.columns[there], window.valid[there]
    columns = torch.where(valid, (target - left).clamp(min=0), 0)
    blank = model.mask_id if model.mask_id is not None else 0
    tokens = canvas.tokens[there].gather(1, columns) if left else torch.full_like(columns, blank)
    held = to_device(canvas.rows.given[rows], device).gather(1, columns) & bool(left)
    k, q, width = columns.shape[1], query.tokens.shape[1], query.width
    keys = torch.arange(width, device=device)
    places = (rearrange(window.start[rows], "r -> r 1") + torch.arange(k) - left).clamp(min=0)
    seen = model.geometry.visible_end(places, canvas.rows.length[rows], window.block_start[rows])
    limits = to_device(rearrange(seen, "r k -> r k 1"), device)
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
