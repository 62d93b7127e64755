"""What all schedulers share: from ranges of columns to a window, with the copy to the host on which a step waits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from dllm.transfer import to_device
from dllm.types import Bidirectional, Canvas, Geometry, Rows, Window


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


@dataclass(frozen=True, eq=False)
class Sight:
    """What a scheduler sees of the canvas, on the host.

    pending  (b, t) bool
    held     (b,) bool   rows that stay where they are; None: none
    """

    pending: Tensor
    held: Tensor | None

    @cached_property
    def head(self) -> Tensor:
        """(b,) int64  each row's first pending column, t where there is none"""
        some, head = self.pending.max(1)  # the first of equal ones
        return torch.where(some, head, self.pending.shape[1])

    def move(self, old: Tensor, new: Tensor) -> Tensor:
        """Where each row goes (b,): what is new, or what is old in rows that stay where they are."""
        return new if self.held is None else torch.where(self.held, old, new)


def look(canvas: Canvas) -> Sight:
    """Copy what is pending to the host, and so wait for the device.

    No other part of a step makes the host wait for enqueued work, but for `Speculative`, constraints, stop strings and
    rows that may become longer, which say so.
    """
    return Sight(canvas.pending.cpu(), None if canvas.held is None else canvas.held.cpu())


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


@dataclass(frozen=True, eq=False)
class Opened:
    """A window that was opened, with what is needed to work on it again.

    facts    the rows' facts; others mean that rows were given to other requests, or have other lengths
    open     rows that have something to do
    columns  (b, k) int64  host; column of each slot, the last one of the canvas where a slot is not valid
    valid    (b, k) bool   host; None where all slots are
    """

    window: Window
    facts: Rows
    open: tuple[int, ...]
    columns: Tensor
    valid: Tensor | None

    def again(self, canvas: Canvas, sight: Sight, step: Tensor) -> Window | None:
        """The same range in a later step, number `step` (b,) of each row (host); None where some row leaves it.

        A row stays while something is pending in its range, left of which nothing is. A range in which something had to
        be decided is left whatever happened, and where a policy holds rows nothing is taken over.
        """
        if self.facts is not canvas.rows or sight.held is not None:
            return None
        here = sight.pending.gather(1, self.columns)
        if self.valid is not None:
            here = here & self.valid
        stays = here.any(1).tolist()
        if not all(stays[row] for row in self.open):
            return None
        device, places = self.window.columns.device, slots(here)
        return self.window._replace(
            pending=to_device(here, device),
            slots=to_device(places, device),
            host_slots=places,
            entered=self.window.commit,  # nobody is, as nobody commits
            first=here.select(1, 0),
            step=to_device(step, device),
            undecided=sight.pending,
        )


def open_window(canvas: Canvas, pending: Tensor, where: Range, steps: int | None) -> Window:
    """The window over the ranges `where` of a canvas whose pending columns (host) are given."""
    window, _, _ = laid_out(canvas, pending, where, steps)
    return window


def opened(canvas: Canvas, pending: Tensor, where: Range, steps: int | None) -> tuple[Window, Opened | None]:
    """Likewise, and how to work on it again; None if that cannot be, as something has to be decided."""
    window, places, valid = laid_out(canvas, pending, where, steps)
    if any(where.forced.tolist()):
        return window, None
    rows = tuple(row for row, closed in enumerate(where.closed.tolist()) if not closed)
    return window, Opened(window, canvas.rows, rows, places, None if bool(valid.all()) else valid)


def laid_out(canvas: Canvas, pending: Tensor, where: Range, steps: int | None) -> tuple[Window, Tensor, Tensor]:
    """The window, and on the host the column (b, k) of each slot, with the last one where a slot is not valid, and
    which are (b, k)."""
    device = canvas.tokens.device
    t = pending.shape[1]
    k = max(1, int((where.end - where.start).max()))
    columns = where.start.unsqueeze(1) + torch.arange(k)
    valid = columns < where.end.unsqueeze(1)
    places = columns.clamp(max=t - 1)
    here = pending.gather(1, places) & valid
    asked = slots(here)
    window = Window(
        columns=to_device(torch.where(valid, columns, t), device),
        valid=to_device(valid, device),
        pending=to_device(here, device),
        slots=to_device(asked, device),
        start=where.start,
        end=where.end,
        block_start=where.block_start,
        block_end=where.block_end,
        entered=where.entered,
        first=here.select(1, 0),
        commit=where.commit,
        forced=where.forced,
        step=to_device(where.step, device),
        closed=where.closed,
        steps=steps,
        undecided=pending,
        host_slots=asked,
    )
    return window, places, valid


def slots(pending: Tensor) -> Tensor:
    """The slots (n,) of a window that get logits: flat indices of what is pending (b, k)."""
    return pending.view(-1).nonzero().view(-1)


def narrow(window: Window, keep: Tensor) -> Window:
    """The window with no other slots than `keep` (b, k), of those that it has."""
    assert window.undecided is not None, "open_window says what is undecided"
    return window._replace(
        columns=torch.where(keep, window.columns, window.undecided.shape[1]),
        valid=keep,
        pending=window.pending & keep,
        answer=None if window.answer is None else window.answer & keep,
    )
