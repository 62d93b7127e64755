"""One forward over some columns of each row: what the model is run on, and where the window lies in what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dllm.caches.memory import CacheState, ColumnRange, ReusableQuery, count_skipped_columns
from dllm.caches.prefill import split_into_chunks
from dllm.caches.queries import build_query, canvas_tokens_at, select_rows
from dllm.caches.shadows import add_shadow_slots
from dllm.transfer import to_device
from dllm.types import Canvas, Model, Probe, Query, RowSubset, Window


class ForwardOutput(NamedTuple):
    """The output of a forward.

    Attributes:
        hidden: States of the window's slots.
        queries: Columns run for each row, shadow slots and lanes of the model included (host).
        shadow: States that do not see their own slot, if the window asks for them.
        probes: Probes that the window asks for, (b, k, …) each.
    """

    hidden: Float[Tensor, "b k d"]
    queries: Int[Tensor, " b"]
    shadow: Float[Tensor, "b k d"] | None = None
    probes: Mapping[Probe, Tensor] = {}


class _RowOutput(NamedTuple):
    """The output of a model for some rows, and the query that it was run on.

    Attributes:
        hidden: States of the window's slots.
        shadow: States of their shadow slots, if there are any.
        query: The query, without shadow slots.
        place: Where the window's slots lie among its columns.
        once: Whether the model was run on nothing else before.
        probes: What the probes show of the window's slots.
    """

    hidden: Float[Tensor, "r k d"]
    shadow: Float[Tensor, "r k d"]
    query: Query
    place: slice | Int[Tensor, "r k"]
    once: bool
    probes: Mapping[Probe, Tensor]


def run_forward(
    model: Model, canvas: Canvas, window: Window, reach: ColumnRange, state: CacheState
) -> tuple[ForwardOutput, CacheState]:
    """Run the columns `reach` of each row, all rows together or in two parts, and store their keys and values."""
    last = state.last
    if last is not None and last.reusable is not None and last.reach is reach:
        return _rerun_forward(model, canvas, last.reusable, state), state
    b, k = window.columns.shape
    queries = reach.end - reach.start
    if not any(queries.tolist()):
        nothing = torch.zeros(b, k, 1, device=canvas.tokens.device)
        return ForwardOutput(nothing, torch.zeros_like(queries), nothing if window.shadow else None), state
    if reach.skip is not None:
        skipped = count_skipped_columns(reach)
        queries = queries - skipped
        reach = reach if bool(skipped.any()) else reach._replace(skip=None)
    rows, state = _rows_to_run(window, reach, state)
    parts = split_rows_by_length(model, rows, queries)
    outputs = [_forward_rows(model, canvas, window, part, reach, state) for part in parts]
    if window.shadow:
        queries = queries + torch.where(reach.end > reach.start, window.end - window.start, 0)
    output = ForwardOutput(
        hidden=_scatter_rows([one.hidden for one in outputs], parts, b),
        queries=queries if model.lanes == 1 else queries * model.lanes,
        shadow=_scatter_rows([one.shadow for one in outputs], parts, b) if window.shadow else None,
        probes={probe: _scatter_rows([one.probes[probe] for one in outputs], parts, b) for probe in window.probes},
    )
    # The next step may run the same query again only if it was the whole of this step: one forward, without shadow
    # slots, whose mask depends on the window, and without probes, which a query does not name.
    alone = len(parts) == 1 and outputs[0].once and not (window.shadow or window.probes)
    if last is not None and last.reach is reach and alone:
        reusable = ReusableQuery(outputs[0].query, parts[0], outputs[0].place, output.queries)
        state = state._replace(last=replace(last, reusable=reusable))
    return output, state


def _rerun_forward(model: Model, canvas: Canvas, reusable: ReusableQuery, state: CacheState) -> ForwardOutput:
    """Run the query of the step before again, over what is on the canvas now.

    A row leaves its range, and with it the query is built anew, only when the scheduler or the cache moves it. So
    most steps of a block need no more on the host than this.
    """
    query = reusable.query._replace(tokens=canvas_tokens_at(canvas, reusable.rows, reusable.query))
    hidden = _states_at(model.forward(query, state.store), reusable.place)
    return ForwardOutput(_scatter_rows([hidden], [reusable.rows], canvas.tokens.shape[0]), reusable.queries)


def split_rows_by_length(model: Model, rows: Int[Tensor, " r"], queries: Int[Tensor, " b"]) -> list[Int[Tensor, " _"]]:
    """Choose which rows go through the model together.

    All do, unless to run those with few columns apart from those with many saves more columns of padding than the
    model's `forward_overhead_columns`. Rows with no more than its `undivided_columns` are never split off.

    Args:
        model: The model.
        rows: Rows of the batch (host).
        queries: Columns to run for each row of the batch (host).

    Returns:
        One or two lists of rows.
    """
    worth = model.forward_overhead_columns
    if worth is None or len(rows) == 1:
        return [rows]
    size = select_rows(queries, rows)
    most, n = int(size.max()), len(rows)
    if most <= model.undivided_columns or n * most - int(size.sum()) <= worth:
        return [rows]
    # Rows in one forward are padded to the longest of them. With the `count` shortest rows in a forward of their own
    # the two cost count * (length of the longest among those) + (n - count) * most columns. Rows with nothing to run
    # cost nothing if they are split off, since they are left out altogether.
    size, order = size.sort()
    count = torch.arange(1, n)
    cost = torch.where(size[:-1] > 0, count * size[:-1], 0) + (n - count) * most
    few = int(cost.argmin()) + 1
    if n * most - int(cost[few - 1]) <= worth:
        return [rows]
    parts = order[:few][size[:few] > 0], order[few:]
    return [rows[part.sort().values] for part in parts if len(part)]


def _forward_rows(
    model: Model, canvas: Canvas, window: Window, rows: Int[Tensor, " r"], reach: ColumnRange, state: CacheState
) -> _RowOutput:
    """Run the columns `reach` of some rows, and read the states of their windows."""
    rest = _store_in_chunks(model, canvas, window, rows, reach, state)
    query = _build_rows_query(model, canvas, window, rows, rest, state)
    run = add_shadow_slots(model, canvas, window, rows, query) if window.shadow else query
    found: Mapping[Probe, Tensor] = {}
    if window.probes:
        out, found = model.forward_with_probes(run, state.store, window.probes, canvas.tokens.shape[1])
    else:
        out = model.forward(run, state.store)
    place = _locate_window(window, rows, query, model.needs_left, gapless=rest.skip is None)
    return _RowOutput(
        hidden=_states_at(out, place),
        shadow=out[:, query.tokens.shape[1] :],
        query=query,
        place=place,
        once=rest is reach,
        probes={probe: _states_at(value, place) for probe, value in found.items()},
    )


def _build_rows_query(
    model: Model, canvas: Canvas, window: Window, rows: Int[Tensor, " r"], reach: ColumnRange, state: CacheState
) -> Query:
    """Build the query for some rows; it names their places in the store where that holds other rows too."""
    query = build_query(model.geometry, canvas, rows, reach, window.block_start)
    if state.store is None or len(rows) == len(state.rows):
        return query
    return query._replace(subset=RowSubset(torch.searchsorted(state.rows, rows), len(state.rows)))


def _store_in_chunks(
    model: Model, canvas: Canvas, window: Window, rows: Int[Tensor, " r"], reach: ColumnRange, state: CacheState
) -> ColumnRange:
    """Run what some rows only store in pieces, if there is more than the model's `chunk` (block-causal models).

    A long prompt then needs no more memory than its keys and values.

    Returns:
        What is left to run, the window with it; the very same `reach` if nothing was run.
    """
    chunk, geometry = model.chunk, model.geometry
    if chunk is None or state.store is None or reach.skip is not None or geometry.block is None:
        return reach
    there = torch.zeros_like(reach.end).index_fill_(0, rows, 1)  # rows of other parts have nothing to run here
    start, end = reach.start * there, reach.end * there
    if int((end - start).max()) <= chunk:
        return reach
    *earlier, (start, end) = split_into_chunks(geometry, start, end, window.start - model.needs_left, chunk)
    for piece in earlier:
        model.forward(_build_rows_query(model, canvas, window, rows, ColumnRange(*piece), state), state.store)
    return ColumnRange(start, end)


def _rows_to_run(window: Window, reach: ColumnRange, state: CacheState) -> tuple[Int[Tensor, " r"], CacheState]:
    """List the rows that a forward runs (host), and remove closed rows from the store.

    With a store these are all that it holds, also those that are idle: to leave those out costs a copy of the store's
    part that is looked at, so only `split_rows_by_length` does it, where it is worth that. Without a store they are the
    rows that have something to run.
    """
    if state.store is None:
        return torch.nonzero(reach.end > reach.start).flatten(), state
    closed = select_rows(window.closed, state.rows)
    if any(closed.tolist()):
        kept = torch.nonzero(~closed).flatten()
        state.store.keep(kept)
        state = state._replace(rows=state.rows[kept])
    return state.rows, state


def _locate_window(
    window: Window, rows: Int[Tensor, " r"], query: Query, left: int, gapless: bool
) -> slice | Int[Tensor, "r k"]:
    """Find where the states that predict the window's slots lie among the columns of a query.

    Args:
        window: The window.
        rows: Rows of the batch that the query is about (host).
        query: The query, without shadow slots.
        left: The model's `needs_left`.
        gapless: Whether no column between a row's first and last was left out.

    Returns:
        A span if it is the same in every row, else an index for each slot.
    """
    first, k, q = select_rows(window.start, rows).tolist(), window.columns.shape[1], query.columns.shape[1]
    if query.start is not None and len(set(first)) == 1:
        # All rows run the same columns, and their windows begin at the same one: the states are a view. A window is
        # padded to the widest row of the whole batch, so that it may reach past what these rows run.
        begin = first[0] - left - query.start
        if 0 <= begin <= q - k:
            return slice(begin, begin + k)
    columns = select_rows(window.columns, rows) - left
    if gapless:
        place = columns - query.columns[:, :1]
    else:
        # The columns of a row ascend, but padding at their end holds 0, which would break the order.
        ran = torch.where(query.valid, query.columns, torch.iinfo(torch.int64).max)
        place = torch.searchsorted(ran, columns.contiguous())
    # Slots that are not valid, and rows that run nothing, point out of range; their states are never used.
    return place.clamp(0, q - 1)


def _states_at(out: Float[Tensor, "r q ..."], place: slice | Int[Tensor, "r k"]) -> Float[Tensor, "r k ..."]:
    """Read the states at some places of what a model returned."""
    if isinstance(place, slice):
        k = place.stop - place.start
        return out if k == out.shape[1] else out.narrow(1, place.start, k)
    index = place.view(*place.shape, *[1] * (out.dim() - 2)).expand(*place.shape, *out.shape[2:])
    return out.gather(1, index)


def _scatter_rows(
    states: Sequence[Float[Tensor, "_ k ..."]], rows: Sequence[Int[Tensor, " _"]], b: int
) -> Float[Tensor, "b k ..."]:
    """Lay states of some rows, part by part, out in the whole batch of `b` rows; zeros elsewhere."""
    if len(rows[0]) == b:
        return states[0]
    full = states[0].new_zeros(b, *states[0].shape[1:])
    for some, there in zip(states, rows, strict=True):
        full.index_copy_(0, to_device(there, full.device), some)
    return full
