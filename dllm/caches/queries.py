"""Queries of a model: the columns that some rows run, their tokens, and the keys that each of them sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from dllm.caches.memory import ColumnRange, columns_between
from dllm.transfer import to_device
from dllm.types import Canvas, Geometry, Query


def build_query(
    geometry: Geometry, canvas: Canvas, rows: Int[Tensor, " r"], reach: ColumnRange, stored: Int[Tensor, " b"]
) -> Query:
    """Build the query for some columns of some rows.

    Args:
        geometry: How columns attend.
        canvas: The canvas.
        rows: Rows of the batch (host).
        reach: Columns to run.
        stored: Columns left of it are of finished blocks (host).
    """
    facts = (reach.start, reach.end, canvas.rows.length, stored)
    start, end, length, stored = (select_rows(x, rows) for x in facts)
    tokens, given = select_rows(canvas.tokens, rows), select_rows(canvas.rows.given, rows)
    device = tokens.device
    first: int | None = None
    spans = list(zip(start.tolist(), end.tolist(), strict=True))
    if reach.skip is None and len(set(spans)) == 1:
        # Every row runs the same columns, which is so in most steps: slices then do instead of gathers, and a store
        # writes keys and values into a slice.
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
            else _columns_without_skipped(start, end, select_rows(reach.skip, rows))
        )
        width, mask = _visibility_mask(geometry, columns, spans, length, stored)
        columns = torch.where(valid, columns, 0)
        given = given.gather(1, columns)
        columns, valid = to_device(columns, device), to_device(valid, device)
        tokens = tokens.gather(1, columns)
    mask = mask if mask is None else to_device(mask, device)
    return Query(tokens, columns, valid, width, mask, first, given=to_device(given, device))


def canvas_tokens_at(canvas: Canvas, rows: Int[Tensor, " r"], query: Query) -> Int[Tensor, "r q"]:
    """Read what the canvas holds at the columns of a query about the given rows of the batch (host)."""
    tokens = select_rows(canvas.tokens, rows)
    if query.start is None:
        return tokens.gather(1, query.columns)
    return tokens.narrow(1, query.start, query.columns.shape[1])


def select_rows(plane: Shaped[Tensor, "b ..."], rows: Int[Tensor, " r"]) -> Shaped[Tensor, "r ..."]:
    """Select some rows of a tensor (host indices, in order), without a copy if these are all."""
    return plane if len(rows) == len(plane) else plane[to_device(rows, plane.device)]


def _visibility_mask(
    geometry: Geometry,
    columns: Int[Tensor, "r q"],
    spans: Sequence[tuple[int, int]],
    length: Int[Tensor, " r"],
    stored: Int[Tensor, " r"],
) -> tuple[int, Bool[Tensor, "r 1 mq keys"] | None]:
    """Find how many keys are looked at, and which of them each column sees; None where all see all.

    Args:
        geometry: How columns attend.
        columns: Columns that are run.
        spans: First column of each row, and the one past its last.
        length: Columns of each row.
        stored: Columns left of it are of finished blocks.
    """
    # A column sees a prefix of its row, and no less than the column left of it does (`Geometry`). So the two ends of a
    # row's span tell whether all columns in between see the same.
    ends = {
        (geometry.visible_end_at(start, row, done), geometry.visible_end_at(end - 1, row, done))
        for (start, end), row, done in zip(spans, length.tolist(), stored.tolist(), strict=True)
        if end > start
    }
    width = max(last for _, last in ends)
    if min(first for first, _ in ends) == width:
        return width, None
    same = all(first == last for first, last in ends)
    limits = geometry.visible_end(columns[:, :1] if same else columns, length, stored)
    # A slot that sees no key at all would give NaN: padding, and rows that run nothing, see at least the first one.
    mask = torch.arange(width) < rearrange(limits.clamp(min=1), "r q -> r q 1")
    return width, rearrange(mask, "r q w -> r 1 q w")


def _column_ranges(start: Int[Tensor, " r"], end: Int[Tensor, " r"]) -> tuple[Int[Tensor, "r q"], Bool[Tensor, "r q"]]:
    """List the columns [start, end) of each row, padded on the right, and which of the slots are no padding."""
    columns = rearrange(start, "r -> r 1") + torch.arange(int((end - start).max()))
    return columns, columns < rearrange(end, "r -> r 1")


def _columns_without_skipped(
    start: Int[Tensor, " r"], end: Int[Tensor, " r"], skip: Bool[Tensor, "r t"]
) -> tuple[Int[Tensor, "r q"], Bool[Tensor, "r q"]]:
    """List the columns [start, end) of each row but those to skip, as `_column_ranges` does."""
    t = skip.shape[1]
    wanted = columns_between(start, end, t) & ~skip
    # Columns that are left out get the number t, so that sorting moves them behind all others.
    columns = torch.where(wanted, torch.arange(t), t).sort(1).values[:, : max(1, int(wanted.sum(1).max()))]
    return columns, columns < t
