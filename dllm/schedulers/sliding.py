"""A block that slides: its front follows what is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import build_row_ranges, open_window
from dllm.types import Canvas, Geometry, HostView, Model, Scheduler, Window


class SlidingBlockState(NamedTuple):
    """Progress of a sliding block, row by row (host).

    Attributes:
        geometry: How columns attend.
        frame: First column of the attention block (0 where there is none), -1 before the first step.
        anchor: First pending column when the row was last refreshed.
        left: Columns pending then.
        start: First column of the window.
        end: One past its last column.
        step: Steps taken since the row was last refreshed.
    """

    geometry: Geometry
    frame: Int[Tensor, " b"]
    anchor: Int[Tensor, " b"]
    left: Int[Tensor, " b"]
    start: Int[Tensor, " b"]
    end: Int[Tensor, " b"]
    step: Int[Tensor, " b"]


@dataclass(frozen=True)
class SlidingBlock(Scheduler):
    """Work from the first pending column on, over the next `window` pending columns.

    For every token that is decided one column more comes into view, so that sure tokens behind a block's end need not
    wait for an unsure one before it. Without a cache, or with `PrefixCache`, a window as wide as the text is `Whole()`.

    A row is refreshed when it is entered, and whenever `window` tokens were decided since it was last refreshed, which
    is the rule of DSB-cache. Between refreshes `PrefixCache` reuses what lies left of the window at the last refresh;
    `DualCache` runs the window alone, and so leaves stale keys where the window has moved on.

    With block-causal attention the window stays within the attention block, of which it is a moving sub-block: a column
    behind it is not seen from within. A window as wide as the attention block is then `Blocks()`.

    Attributes:
        window: Pending columns in view.
        longest: Most columns in view, decided or pending. None: no bound, the "greedy" variant. Equal to `window`: the
            "constant" variant, which moves on only when its first column is decided.

    References:
        Luo et al. 2026, DSB (arXiv:2602.05992), `generate_i` (greedy) and `generate_s` (constant) of its code.

    Departures:
        `longest` may lie between the two variants. A window at the end of the row gets shorter instead of staying where
        it is, which leaves the same columns to decide. Rows do not wait for each other (published for one row). The
        published constant variant also skips columns by a confidence that is always positive, which does nothing.
    """

    window: int = 32
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"{self}: window must be at least 1 column")
        if self.longest is not None and self.longest < self.window:
            raise ConfigError(f"{self}: longest must be at least window, {self.window}, or None")

    def init(self, canvas: Canvas, model: Model, /) -> SlidingBlockState:
        zeros = torch.zeros_like(canvas.rows.prompt)
        return SlidingBlockState(model.geometry, zeros - 1, zeros, zeros, zeros, zeros, zeros)

    def entering(self, canvas: Canvas, view: HostView, state: SlidingBlockState, /) -> Bool[Tensor, " b"]:
        start = view.unless_held(state.start, view.head)
        return state.geometry.block_bounds(start, canvas.rows.length)[0] != state.frame

    def step(
        self, canvas: Canvas, view: HostView, state: SlidingBlockState, /
    ) -> tuple[Window | None, SlidingBlockState]:
        start = view.unless_held(state.start, view.head)
        low, high = state.geometry.block_bounds(start, canvas.rows.length)
        entering = low != state.frame
        done = self.finished(canvas, view, state)
        if bool(done.all()):
            return None, state
        end = self._find_front(view.pending, start, high)
        if self.longest is not None:
            end = torch.minimum(end, start + self.longest)
        end = view.unless_held(state.end, end)

        left = view.pending.sum(1)
        entered = entering | (state.left - left >= self.window)
        step = torch.where(entered, 0, state.step + 1)
        anchor = torch.where(entered, start, state.anchor)
        left = torch.where(entered, left, state.left)
        # Without attention blocks the window is the block of the caches, but for its left edge, which moves with a
        # refresh only: the keys stored right of it are of columns that were pending then, and must not be reused.
        whole_row = state.geometry.block is None
        block_start, block_end = (anchor, end) if whole_row else (low, high)
        where = build_row_ranges(done, start, end, block_start, block_end, entered, step)
        frame = torch.where(done, state.frame, low)
        state = state._replace(frame=frame, anchor=anchor, left=left, start=start, end=end, step=step)
        return open_window(canvas, view, where), state

    def _find_front(
        self, pending: Bool[Tensor, "b t"], start: Int[Tensor, " b"], high: Int[Tensor, " b"]
    ) -> Int[Tensor, " b"]:
        """Find the column one past the last that is in view, at most `high`."""
        column = torch.arange(pending.shape[1])
        ahead = pending & (column >= rearrange(start, "b -> b 1")) & (column < rearrange(high, "b -> b 1"))
        enough = ahead.cumsum(1) >= self.window
        return torch.where(enough.any(1), enough.long().argmax(1) + 1, high)
