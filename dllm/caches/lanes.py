"""Several canvases of one row, run side by side: what each was and what it showed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.transfer import to_device
from dllm.types import Canvas, Window


class DraftLanes(NamedTuple):
    """Canvases that were run, n in all: each row's own and drafts of those to come, the shorter before the longer.

    row      (n,) int64    host; row of the batch
    start    (n,) int64    host; range of the row's window
    end      (n,) int64
    length   (n,) int64    host; length of the row
    ran      (n, t) bool   host; columns that were run
    tokens   (n, t) int64  the canvas; -1 where there is none to serve
    hidden   (n, k, d)     states of the window's slots; None before the first forward
    shadow   (n, k, d)     likewise from everything but the slot itself, if the window asked for it
    """

    row: Tensor
    start: Tensor
    end: Tensor
    length: Tensor
    ran: Tensor
    tokens: Tensor
    hidden: Tensor | None = None
    shadow: Tensor | None = None

    @classmethod
    def blank(cls, canvas: Canvas) -> DraftLanes:
        """One lane a row, with nothing to serve."""
        zeros = torch.zeros(len(canvas.tokens), dtype=torch.int64)
        none = torch.zeros_like(canvas.rows.given)
        row = torch.arange(len(zeros))
        return cls(row, zeros, zeros, zeros, none, torch.full_like(canvas.tokens, -1))

    def same(self, canvas: Canvas) -> Tensor:
        """Lanes (n,) whose tokens are now their row's, on the model's device; a model sees nothing else of a canvas."""
        return (self.tokens == canvas.tokens[to_device(self.row, canvas.tokens.device)]).all(1)

    def fits(self, canvas: Canvas, window: Window, ran: Tensor) -> Tensor:
        """Lanes (n,) that show what a forward over the columns `ran` (b, t) would, if the canvas is the same (host)."""
        return (
            (self.start == window.start[self.row])
            & (self.end == window.end[self.row])
            & (self.length == canvas.rows.length[self.row])
            & (self.ran == ran[self.row]).all(1)
        )

    def serve(self, states: Tensor | None, at: Tensor, window: Window) -> Tensor:
        """States (b, k, d) of the window's slots from the lanes `at` (b,) on which the rows stand."""
        b, k = window.columns.shape
        if states is None:
            return torch.zeros(b, k, 1, device=window.columns.device)
        return states[to_device(at.clamp(min=0), states.device), :k]

    def without(self, rows: Tensor) -> DraftLanes:
        """The same, with nothing to serve for some rows (b,)."""
        blank = to_device(rows[self.row], self.tokens.device)
        return self._replace(tokens=self.tokens.masked_fill(rearrange(blank, "n -> n 1"), -1))

    def of(self, lane: Tensor) -> DraftLanes:
        """Some lanes (host indices, also more than once)."""
        return select_bundle_rows(self, lane)

    def then(self, new: DraftLanes) -> DraftLanes:
        """These and after them others."""
        if not len(self.row) or not len(new.row):
            return self if len(self.row) else new
        return DraftLanes(*(_append_rows(x, y, len(self.row)) for x, y in zip(self, new, strict=True)))  # type: ignore[arg-type]


def _append_rows(old: Tensor | None, new: Tensor | None, n: int) -> Tensor | None:
    """Two tensors after each other, the first with `n` rows or not there, which means zeros; states (n, k, d) become as
    wide as the wider."""
    if new is None:
        return None
    old = new.new_zeros(n, *new.shape[1:]) if old is None else old
    if new.dim() == 3:
        k = max(old.shape[1], new.shape[1])
        old, new = (torch.nn.functional.pad(x, (0, 0, 0, k - x.shape[1])) for x in (old, new))
    return torch.cat([old, new])


def select_bundle_rows(bundle: Any, row: Tensor) -> Any:
    """A bundle of tensors (b, …) with the rows (host indices) that are listed, also more than once.

    A window's slots, which count through all rows, stay as they are.
    """
    there = {row.device: row}

    def take(name: str, value: Any) -> Any:
        if hasattr(value, "_fields"):  # a bundle of its own
            return select_bundle_rows(value, row)
        if not isinstance(value, Tensor) or name in ("slots", "host_slots"):
            return value
        if value.device not in there:
            there[value.device] = to_device(row, value.device)
        return value[there[value.device]]

    return bundle._replace(**{name: take(name, value) for name, value in bundle._asdict().items()})
