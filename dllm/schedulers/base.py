"""The common tools of schedulers: a window from ranges of columns, and the same window again while no row leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.transfer import to_device
from dllm.types import Canvas, HostView, Transient, Window


class RowRanges(NamedTuple):
    """Ranges in which the rows work (host); the attributes are those of `Window`."""

    start: Int[Tensor, " b"]
    end: Int[Tensor, " b"]
    block_start: Int[Tensor, " b"]
    block_end: Int[Tensor, " b"]
    entered: Bool[Tensor, " b"]
    commit: Bool[Tensor, " b"]
    forced: Bool[Tensor, " b"]
    step: Int[Tensor, " b"]
    closed: Bool[Tensor, " b"]


def build_row_ranges(
    done: Bool[Tensor, " b"],
    start: Int[Tensor, " b"],
    end: Int[Tensor, " b"],
    block_start: Int[Tensor, " b"],
    block_end: Int[Tensor, " b"],
    entered: Bool[Tensor, " b"],
    step: Int[Tensor, " b"],
) -> RowRanges:
    """Make the ranges of a step that stores no finished block; rows that are done have none."""
    never = torch.zeros_like(done)
    start, end, block_start, block_end = (
        torch.where(done, 0, column) for column in (start, end, block_start, block_end)
    )
    return RowRanges(start, end, block_start, block_end, entered & ~done, never, never, step, done)


@dataclass(frozen=True, eq=False)
class OpenedWindow(Transient):
    """A window that was opened, with everything needed to open it again in the next step.

    Most steps stay in their range, and opening the same window again costs a fraction of finding out where every row
    works.

    Attributes:
        window: The window.
        open_rows: Rows that have something to do.
        columns: Column of each slot, the last one of the canvas where a slot is not valid (host).
        valid: Slots that are valid (host). None where all are.
    """

    window: Window
    open_rows: tuple[int, ...]
    columns: Int[Tensor, "b k"]
    valid: Bool[Tensor, "b k"] | None

    def open_again(self, view: HostView, step: Int[Tensor, " b"]) -> Window | None:
        """Open the same range in a later step, or return None where some row leaves it.

        A row stays while something is pending in its range, left of which nothing is. Where a policy holds rows nothing
        is taken over.

        Args:
            view: The canvas on the host.
            step: Number of the step in the range of each row (host).
        """
        if view.held is not None:
            return None
        here = view.pending.gather(1, self.columns)
        if self.valid is not None:
            here = here & self.valid
        stays = here.any(1).tolist()
        if not all(stays[row] for row in self.open_rows):
            return None
        device = self.window.columns.device
        slots = _slot_indices(here)
        return self.window._replace(
            pending=to_device(here, device),
            slots=to_device(slots, device),
            host_slots=slots,
            entered=torch.zeros_like(self.window.entered),
            first=here.select(1, 0),
            step=to_device(step, device),
            undecided=view.pending,
            unchanged=True,
        )


def open_window(canvas: Canvas, view: HostView, where: RowRanges, steps: int | None = None) -> Window:
    """Open the window over the ranges `where` of a canvas."""
    window, _, _ = _lay_out_window(canvas, view, where, steps)
    return window


def open_repeatable_window(
    canvas: Canvas, view: HostView, where: RowRanges, steps: int | None
) -> tuple[Window, OpenedWindow | None]:
    """Open the window over the ranges `where`, and remember how to open it again.

    Returns:
        The window; and the value that opens it again, None where something has to be decided (`forced`), since such a
        range is left in any case.
    """
    window, places, valid = _lay_out_window(canvas, view, where, steps)
    if any(where.forced.tolist()):
        return window, None
    rows = tuple(row for row, closed in enumerate(where.closed.tolist()) if not closed)
    return window, OpenedWindow(window, rows, places, None if bool(valid.all()) else valid)


def _lay_out_window(
    canvas: Canvas, view: HostView, where: RowRanges, steps: int | None
) -> tuple[Window, Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
    """Lay out the window.

    Returns:
        The window; the column of each slot, the last one of the canvas where it is not valid (host); and the slots that
        are valid (host).
    """
    device = canvas.tokens.device
    t = view.pending.shape[1]
    k = max(1, int((where.end - where.start).max()))
    columns = where.start.unsqueeze(1) + torch.arange(k)
    valid = columns < where.end.unsqueeze(1)
    places = columns.clamp(max=t - 1)  # slots that are not valid read the last column, and are masked
    here = view.pending.gather(1, places) & valid
    slots = _slot_indices(here)
    window = Window(
        columns=to_device(torch.where(valid, columns, t), device),
        valid=to_device(valid, device),
        pending=to_device(here, device),
        slots=to_device(slots, device),
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
        undecided=view.pending,
        host_slots=slots,
    )
    return window, places, valid


def _slot_indices(pending: Bool[Tensor, "b k"]) -> Int[Tensor, " n"]:
    """List the slots of a window that get logits: flat indices of what is pending."""
    return pending.view(-1).nonzero().view(-1)


def narrow_window(window: Window, keep: Bool[Tensor, "b k"]) -> Window:
    """Restrict a window to some of its slots.

    Args:
        window: The window; `open_window` has filled its `undecided`.
        keep: Valid slots that remain. A window keeps its width, so the others become padding.
    """
    assert window.undecided is not None, "open_window says what is undecided"
    return window._replace(
        columns=torch.where(keep, window.columns, window.undecided.shape[1]),
        valid=keep,
        pending=window.pending & keep,
        answer=None if window.answer is None else window.answer & keep,
    )
