"""A block that slides: its front follows what is decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import build_row_ranges, open_window
from dllm.types import Canvas, Geometry, HostView, Model, Scheduler, Window


class SlidingBlockState(NamedTuple):
    """Where a sliding block stands, row by row (host).

    geometry  how columns attend
    frame     (b,) first column of the attention block (0 where there is none), -1 before the first step
    anchor    (b,) first pending column when the row was last refreshed
    left      (b,) columns pending then
    start     (b,) the window's first column
    end       (b,) one past its last
    step      (b,) steps taken since the row was last refreshed
    """

    geometry: Geometry
    frame: Tensor
    anchor: Tensor
    left: Tensor
    start: Tensor
    end: Tensor
    step: Tensor


@dataclass(frozen=True)
class SlidingBlock(Scheduler):
    """Work from the first pending column on, over the next `window` pending columns.

    For every token that is decided one column more comes into view, so that sure tokens behind a block's end need not
    wait for an unsure one before it. Without a cache, or with `PrefixCache`, a window as wide as the text is `Whole()`.

    window   pending columns in view
    longest  most columns in view, decided or pending. None: no bound, the "greedy" variant; equal to `window`: the
             "constant" variant, which moves on only when its first column is decided

    A row is refreshed when it is entered, and whenever `window` tokens were decided since it was last refreshed, which
    is the rule of DSB-cache. Between refreshes `PrefixCache` reuses what lies left of the window at the last refresh;
    `DualCache` runs the window alone, and so leaves stale keys where the window has moved on.

    With block-causal attention the window stays within the attention block, of which it is a moving sub-block: a column
    behind it is not seen from within. A window as wide as the attention block is then `Blocks()`.

    Reference: Luo et al. 2026, DSB (arXiv:2602.05992), `generate_i` (greedy) and `generate_s` (constant) of its code.
    Departs from it: `longest` may lie between the two; a window at the end of the row gets shorter instead of staying
    where it is, which leaves the same columns to decide; rows do not wait for each other (published for one row); the
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
        self, canvas: Canvas, view: HostView, plan: SlidingBlockState, /
    ) -> tuple[Window | None, SlidingBlockState]:
        start = view.unless_held(plan.start, view.head)
        low, high = plan.geometry.block_bounds(start, canvas.rows.length)
        entering = low != plan.frame
        done = self.finished(canvas, view, plan)
        if bool(done.all()):
            return None, plan
        end = self._find_front(view.pending, start, high)
        if self.longest is not None:
            end = torch.minimum(end, start + self.longest)
        end = view.unless_held(plan.end, end)

        left = view.pending.sum(1)
        entered = entering | (plan.left - left >= self.window)
        step = torch.where(entered, 0, plan.step + 1)
        anchor = torch.where(entered, start, plan.anchor)
        left = torch.where(entered, left, plan.left)
        both = plan.geometry.block is None
        where = build_row_ranges(done, start, end, anchor if both else low, end if both else high, entered, step)
        frame = torch.where(done, plan.frame, low)
        now = plan._replace(frame=frame, anchor=anchor, left=left, start=start, end=end, step=step)
        return open_window(canvas, view, where), now

    def _find_front(self, pending: Tensor, start: Tensor, high: Tensor) -> Tensor:
        """One past the column (b,) that is the last to be in view: at most `high` (b,)."""
        column = torch.arange(pending.shape[1])
        ahead = pending & (column >= rearrange(start, "b -> b 1")) & (column < rearrange(high, "b -> b 1"))
        enough = ahead.cumsum(1) >= self.window
        return torch.where(enough.any(1), enough.long().argmax(1) + 1, high)
