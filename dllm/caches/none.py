"""No cache: every step recomputes all that the geometry of attention needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dllm.caches.base import Memory, Reach, run
from dllm.types import BlockCausal, Canvas, Model, Seen, Window


@dataclass(frozen=True)
class NoCache:
    """Recompute everything at every step: the whole row, or with block-causal attention all up to the block's end.

    The most expensive and the only one that is exact for bidirectional attention at every step.
    """

    def init(self, canvas: Canvas, model: Model, /) -> Memory:
        b = len(canvas.tokens)
        zeros = torch.zeros(b, dtype=torch.int64)
        return Memory(None, torch.arange(b), zeros, zeros)

    def step(self, model: Model, canvas: Canvas, window: Window, memory: Memory, /) -> tuple[Seen, Memory]:
        ends = window.block_end if isinstance(model.geometry, BlockCausal) else canvas.rows.length
        runs = window.end > window.start  # a commit that decides nothing has nothing to store either
        end = torch.where(runs, ends, 0)
        ran, memory = run(model, canvas, window, Reach(torch.zeros_like(end), end), memory)
        return Seen(ran.hidden, ran.queries, runs, ran.shadow), memory
