"""Longer and shorter rows: new columns at the end or between others, as far as the request allows."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from dllm.transfer import to_device
from dllm.types import Canvas, Geometry, move_columns, text_start


def shorten_rows(canvas: Canvas, limit: Int[Tensor, " b"], length: Int[Tensor, " b"]) -> Canvas:
    """Make rows shorter: columns behind the new length are no longer pending."""
    there = torch.arange(canvas.tokens.shape[1]) < rearrange(length, "b -> b 1")
    pending = canvas.pending & to_device(there, canvas.pending.device)
    return canvas._replace(pending=pending, rows=canvas.rows._replace(limit=limit, length=length))


def lengthen_rows(
    canvas: Canvas,
    at: Int[Tensor, " b"],
    more: Int[Tensor, " b"],
    most: Int[Tensor, " b"],
    geometry: Geometry,
    blank: int,
) -> tuple[Canvas, Int[Tensor, "b t"]]:
    """Put new columns before the columns `at`, as far as there is room.

    Args:
        canvas: The canvas.
        at: First column that moves to the right; the row's length for new columns at its end (host).
        more: Number of new columns (host).
        most: Limit that the request of each row allows (host).
        geometry: How columns attend.
        blank: Id that new columns hold.

    Returns:
        The canvas, and for each column the one it was before, -1 where it is new (host).
    """
    rows = canvas.rows
    gap = torch.minimum(more, most - rows.limit)
    # Where attention has blocks, a row must fill its last one: it grows by more columns than were requested.
    limit = torch.where(more > 0, torch.minimum(most, geometry.extent(rows.limit + gap)), rows.limit)
    length = geometry.extent(limit)
    # At the end of the row all of the additional columns are new. In the middle only the gap is; the rest of them
    # appear at the end.
    gap = torch.where(at == rows.length, length - rows.length, gap)
    moved = _source_columns(canvas.tokens.shape[1], at, gap, rows.length, length)
    given = move_columns(rows.given, moved, False)
    rows = rows._replace(limit=limit, length=length, given=given, text=text_start(given))
    tokens, pending = move_columns(canvas.tokens, moved, blank), move_columns(canvas.pending, moved, True)
    return canvas._replace(tokens=tokens, pending=pending, rows=rows), moved


def _source_columns(
    t: int, at: Int[Tensor, " b"], gap: Int[Tensor, " b"], before: Int[Tensor, " b"], after: Int[Tensor, " b"]
) -> Int[Tensor, "b t"]:
    """Find the column that each column comes from once new ones were inserted; -1 for new ones.

        column    0 … at-1      at … at+gap-1     at+gap …        behind `before` + gap, up to `after`
        source    the same      new               gap less        new

    Args:
        t: Columns of the canvas.
        at: Column before which new ones are put.
        gap: Number of new ones; 0 leaves the row as it is.
        before: Length of the row before.
        after: Length of the row after.
    """
    at, gap, before, after = (rearrange(x, "b -> b 1") for x in (at, gap, before, after))
    column = torch.arange(t).expand(len(at), t)
    source = torch.where(column < at, column, column - gap)
    new = (column >= at) & ((column < at + gap) | (source >= before))
    # Columns behind the row are padding, which stays where it is.
    return torch.where((gap == 0) | (column >= after), column, torch.where(new, -1, source))
