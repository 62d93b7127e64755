"""What all schedulers share: from ranges of columns to a window, with the one synchronisation of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
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
    held     (b,) bool   rows that stay where they are; None: none
    """

    pending: Tensor
    head: Tensor
    held: Tensor | None

    def move(self, old: Tensor, new: Tensor) -> Tensor:
        """Where each row goes (b,): what is new, or what is old in rows that stay where they are."""
        return new if self.held is None else torch.where(self.held, old, new)


def look(canvas: Canvas) -> Sight:
    """Copy what is pending to the host: the only point of a step at which the host waits for the device."""
    pending = canvas.pending.cpu()
    t = pending.shape[1]
    some, head = pending.max(1)  # the first of equal ones
    head = torch.where(some, head, t)
    return Sight(pending, head, None if canvas.held is None else canvas.held.cpu())


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
    done = (sight.head >= rows.length) | (entering & (sight.head >= rows.limit))
    return done if sight.held is None else done & ~sight.held


def work(
    done: Tensor, start: Tensor, end: Tensor, block_start: Tensor, block_end: Tensor, entered: Tensor, step: Tensor
) -> Range:
    """The ranges of a step that stores no finished block; rows that are done have none."""
    never = torch.zeros_like(done)
    start, end, block_start, block_end = (
        torch.where(done, 0, column) for column in (start, end, block_start, block_end)
    )
    return Range(start, end, block_start, block_end, entered & ~done, never, never, step, done)


class Opened(NamedTuple):
    """A window that was opened, with what is needed to work on it again.

    columns  (b, k) int64  host; column of each slot, the last one of the canvas where a slot is not valid
    valid    (b, k) bool   host
    """

    window: Window
    columns: Tensor
    valid: Tensor

    def stays(self, sight: Sight) -> bool:
        """Whether each row goes on where it is: its first pending column lies in its range, or it is closed.

        Not after a step in which something had to be decided, since such a range is left whatever happened.
        """
        window = self.window
        if sight.held is not None or any(window.forced.tolist()):
            return False
        planes = (window.closed, window.start, sight.head, window.end)
        rows = zip(*(plane.tolist() for plane in planes), strict=True)
        return all(closed or start <= head < end for closed, start, head, end in rows)

    def again(self, pending: Tensor) -> Opened:
        """The same range in the next step, with the columns of the canvas that are now pending (host)."""
        window, device = self.window, self.window.columns.device
        here = pending.gather(1, self.columns) & self.valid
        window = window._replace(
            pending=here.to(device, non_blocking=True),
            slots=slots(here).to(device, non_blocking=True),
            entered=window.commit,  # nobody is, as nobody commits
            first=here[:, 0],
            step=window.step + 1,
            undecided=pending,
        )
        return self._replace(window=window)


def open_window(canvas: Canvas, pending: Tensor, where: Range, steps: int | None) -> Window:
    """The window over the ranges `where` of a canvas whose pending columns (host) are given."""
    return opened(canvas, pending, where, steps).window


def opened(canvas: Canvas, pending: Tensor, where: Range, steps: int | None) -> Opened:
    """Likewise, for a scheduler that stays in a range."""
    device = canvas.tokens.device
    t = pending.shape[1]
    k = max(1, int((where.end - where.start).max()))
    columns = where.start.unsqueeze(1) + torch.arange(k)
    valid = columns < where.end.unsqueeze(1)
    places = columns.clamp(max=t - 1)
    here = pending.gather(1, places) & valid

    def move(x: Tensor) -> Tensor:
        return x.to(device, non_blocking=True)

    window = Window(
        columns=move(torch.where(valid, columns, t)),
        valid=move(valid),
        pending=move(here),
        slots=move(slots(here)),
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
    return Opened(window, places, valid)


def slots(pending: Tensor) -> Tensor:
    """The slots (n,) of a window that get logits: flat indices of what is pending (b, k)."""
    return pending.flatten().nonzero().squeeze(1)


def narrow(window: Window, keep: Tensor) -> Window:
    """The window with no other slots than `keep` (b, k), of those that it has."""
    assert window.undecided is not None, "open_window says what is undecided"
    return window._replace(
        columns=torch.where(keep, window.columns, window.undecided.shape[1]),
        valid=keep,
        pending=window.pending & keep,
        answer=None if window.answer is None else window.answer & keep,
    )
