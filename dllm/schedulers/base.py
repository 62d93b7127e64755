"""What all schedulers share: from ranges of columns to a window, with the one synchronisation of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.types import Bidirectional, Canvas, Geometry, Window


class Range(NamedTuple):
    """Where each row works, all (b,) and host; see `Window` for the meaning."""

    start: Tensor
    end: Tensor
    block_start: Tensor
    block_end: Tensor
    entered: Tensor
    commit: Tensor
    forced: Tensor
    step: Tensor
    closed: Tensor


class Sight(NamedTuple):
    """What a scheduler sees of the canvas, on the host.

    pending  (b, t) bool
    head     (b,) int64  each row's first pending column, t where there is none
    held     (b,) bool   rows that stay where they are
    """

    pending: Tensor
    head: Tensor
    held: Tensor


def look(canvas: Canvas) -> Sight:
    """Copy what is pending to the host: the only point of a step at which the host waits for the device."""
    pending = canvas.pending.cpu()
    t = pending.shape[1]
    head = torch.where(pending, torch.arange(t), t).amin(1)
    return Sight(pending, head, torch.zeros_like(head, dtype=torch.bool) if canvas.held is None else canvas.held.cpu())


def bounds(geometry: Geometry, column: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """First column, and the one past the last, within which a window around `column` (b,) may lie: the attention block,
    or where there is none the whole row of `length` (b,)."""
    if isinstance(geometry, Bidirectional):
        return torch.zeros_like(length), length
    end = geometry.extent(column + 1)
    return end - geometry.size, torch.minimum(end, length)


def finished(canvas: Canvas, sight: Sight, entering: Tensor) -> Tensor:
    """Rows (b,) with nothing left to do. A block is entered only if it holds a column of the requested output that is
    still pending; once entered it is finished to its end, also past the requested output."""
    rows = canvas.rows
    return ((sight.head >= rows.length) | (entering & (sight.head >= rows.limit))) & ~sight.held


def work(
    done: Tensor, start: Tensor, end: Tensor, block_start: Tensor, block_end: Tensor, entered: Tensor, step: Tensor
) -> Range:
    """The ranges of a step that stores no finished block; rows that are done have none."""
    never = torch.zeros_like(done)
    start, end, block_start, block_end = (
        torch.where(done, 0, column) for column in (start, end, block_start, block_end)
    )
    return Range(start, end, block_start, block_end, entered & ~done, never, never, step, done)


def open_window(canvas: Canvas, pending: Tensor, where: Range, steps: int | None) -> Window:
    """The window over the ranges `where` of a canvas whose pending columns (host) are given."""
    device = canvas.tokens.device
    t = pending.shape[1]
    k = max(1, int((where.end - where.start).max()))
    columns = rearrange(where.start, "b -> b 1") + torch.arange(k)
    valid = columns < rearrange(where.end, "b -> b 1")
    columns = torch.where(valid, columns, t)
    here = pending.gather(1, columns.clamp(max=t - 1)) & valid

    def move(x: Tensor) -> Tensor:
        return x.to(device, non_blocking=True)

    return Window(
        columns=move(columns),
        valid=move(valid),
        pending=move(here),
        slots=move(torch.nonzero(here.flatten()).flatten()),
        start=where.start,
        end=where.end,
        block_start=where.block_start,
        block_end=where.block_end,
        entered=where.entered,
        first=here[:, 0],
        commit=where.commit,
        forced=where.forced,
        step=move(where.step),
        closed=where.closed,
        steps=steps,
        undecided=pending,
    )


def narrow(window: Window, keep: Tensor) -> Window:
    """The window with no other slots than `keep` (b, k), of those that it has."""
    assert window.undecided is not None, "open_window says what is undecided"
    return window._replace(
        columns=torch.where(keep, window.columns, window.undecided.shape[1]),
        valid=keep,
        pending=window.pending & keep,
        answer=None if window.answer is None else window.answer & keep,
    )
