"""No cache: every step recomputes all that the geometry of attention needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dllm.caches.base import ForwardPlan, PlannedCache
from dllm.caches.memory import CacheState, ColumnRange, LastForward
from dllm.types import Canvas, Model, Window


@dataclass(frozen=True)
class NoCache(PlannedCache):
    """Recompute everything at every step: the whole row, or with block-causal attention all up to the block's end.

    It costs the most, and it alone is exact for bidirectional attention at every step.
    """

    def init(self, canvas: Canvas, model: Model, /) -> CacheState:
        return CacheState.blank(len(canvas.tokens), None)

    def plan(self, model: Model, canvas: Canvas, window: Window, state: CacheState, /) -> ForwardPlan:
        last = state.last
        if last is not None and last.holds_for(window):
            return ForwardPlan(last.reach, last.fresh, state)
        ends = window.block_end if model.geometry.block is not None else canvas.rows.length
        runs = window.end > window.start  # a commit that decides nothing has nothing to store either
        end = torch.where(runs, ends, 0)
        reach = ColumnRange(torch.zeros_like(end), end)
        last = LastForward(None, reach, runs, fresh=runs)
        return ForwardPlan(reach, runs, state._replace(last=last))
