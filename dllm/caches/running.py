"""One forward over some columns of each row: what the model is asked, and where the window lies in what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from dllm.caches.memory import Asked, Memory, Reach, left_out
from dllm.caches.prefill import pieces
from dllm.transfer import to_device
from dllm.types import BlockCausal, Canvas, Geometry, Model, Part, Query, Window


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
    and those with many, if that saves more columns than the model's `apart`. No row is many if it has no more than the
    model's `together`."""
    worth = getattr(model, "apart", None)
    if worth is None or len(rows) == 1:
        return [rows]
    size = of_rows(queries, rows)
    most, n = int(size.max()), len(rows)
    if most <= getattr(model, "together", 0) or n * most - int(size.sum()) <= worth:
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
        k = place.stop - place.start
        return out if k == out.shape[1] else out.narrow(1, place.start, k)
    return out.gather(1, repeat(place, "r k -> r k d", d=out.shape[-1]))


def of_rows(plane: Tensor, rows: Tensor) -> Tensor:
    """Some rows (host indices, in order) of a tensor (b, …), without a copy if these are all."""
    return plane if len(rows) == len(plane) else plane[to_device(rows, plane.device)]


def spread(states: Sequence[Tensor], rows: Sequence[Tensor], b: int) -> Tensor:
    """States (r, k, d) of some rows, part by part, as (b, k, d); zeros elsewhere."""
    if len(rows[0]) == b:
        return states[0]
    full = states[0].new_zeros(b, *states[0].shape[1:])
    for some, there in zip(states, rows, strict=True):
        full.index_copy_(0, to_device(there, full.device), some)
    return full


def tokens_at(canvas: Canvas, rows: Tensor, query: Query) -> Tensor:
    """What the canvas holds (r, q) at the columns of a query."""
    tokens = of_rows(canvas.tokens, rows)
    if query.start is None:
        return tokens.gather(1, query.columns)
    return tokens.narrow(1, query.start, query.columns.shape[1])


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
        columns = to_device(line, device).expand(len(rows), -1)
        valid = torch.ones(columns.shape, dtype=torch.bool, device=device)
        tokens, given = tokens[:, first:stop], given[:, first:stop]
    else:
        columns, valid = ranges(start, end) if reach.skip is None else pick(start, end, of_rows(reach.skip, rows))
        width, mask = sight(geometry, columns, spans, length)
        columns = torch.where(valid, columns, 0)
        given = given.gather(1, columns)
        columns, valid = to_device(columns, device), to_device(valid, device)
        tokens = tokens.gather(1, columns)
    mask = mask if mask is None else to_device(mask, device)
    return Query(tokens, columns, valid, width, mask, first, given=to_device(given, device))


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
    limits = to_device(rearrange(model.geometry.reach(places, canvas.rows.length[rows]), "r k -> r k 1"), device)
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
