"""Several blocks at a time, each begun before the one left of it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import build_row_ranges, open_window
from dllm.schedulers.blocks import block_origin, number_block, resolve_block_size
from dllm.transfer import to_device
from dllm.types import Canvas, HostView, Model, Scheduler, Window


class PipelineState(NamedTuple):
    """Progress of a pipeline, row by row (host); blocks are numbered from `origin`.

    Attributes:
        size: Columns of a block.
        origin: Column from which blocks are counted.
        first: Number of the first active block, -1 before the first step.
        last: Number of the last active block, -1 before the first step.
        step: Steps taken since the row's active blocks were last changed.
    """

    size: int
    origin: Int[Tensor, " b"]
    first: Int[Tensor, " b"]
    last: Int[Tensor, " b"]
    step: Int[Tensor, " b"]


@dataclass(frozen=True)
class Pipeline(Scheduler):
    """Work on a run of blocks: the first unfinished one and those begun behind it.

    The next block is added when the last one is filled to the share `add`, at most one a step. In each step every block
    that is fully active decides at least one token. The first active block is fully active; any other one is once the
    block left of it is filled to the share `activate`. In the remaining active blocks only the slots that the policy
    accepts are decided. An `add` above 1 leaves one active block at a time, which is `Blocks(size)`.

    Given columns do not count. The cache is refreshed when the first active block is finished and the next one becomes
    the first: that forward stores the finished block. The keys of a block that is only partly decided go stale as it
    fills; but all active blocks are in the window, so that `PrefixCache` and `DualCache` run all of them in every step,
    and with block-causal attention both are exact.

    Attributes:
        size: Columns of a block. None: the model's attention block, or 32 where it has none.
        add: Share of the last active block, of 0 to 1, at which the next one is added.
        activate: Share of a block at which the next one is fully active.

    References:
        Wang et al. 2025, D2F (arXiv:2508.09192), decoding only, as its authors' LoPA repository has it; its models
        attend block by block.

    Departures:
        Blocks beyond the last active one are on the canvas from the beginning, which only a model that attends in both
        directions can see. A block of a finished text is added when all before it are finished, whatever `add` is. Rows
        do not wait for each other (published for one row).
    """

    size: int | None = None
    add: float = 0.1
    activate: float = 0.95

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"{self}: size must be at least 1")
        if not self.add > 0 or not self.activate >= 0:
            raise ConfigError(f"{self}: add must be above 0 and activate 0 or more; they are shares of a block")

    def init(self, canvas: Canvas, model: Model, /) -> PipelineState:
        zeros = torch.zeros_like(canvas.rows.prompt)
        size = resolve_block_size(self, self.size, model)
        return PipelineState(size, block_origin(canvas, model), zeros - 1, zeros - 1, zeros)

    def _number_first_block(self, view: HostView, state: PipelineState) -> Int[Tensor, " b"]:
        """Find the number of the first unfinished block of each row."""
        return view.unless_held(state.first, number_block(view.head, state.origin, state.size))

    def entering(self, canvas: Canvas, view: HostView, state: PipelineState, /) -> Bool[Tensor, " b"]:
        return self._number_first_block(view, state) != state.first

    def step(self, canvas: Canvas, view: HostView, state: PipelineState, /) -> tuple[Window | None, PipelineState]:
        rows = canvas.rows
        first = self._number_first_block(view, state)
        entering = first != state.first
        done = self.finished(canvas, view, state)
        if bool(done.all()):
            return None, state
        filled = self._filled_shares(canvas, view, state)
        # A row may finish all its active blocks in one step; then the first unfinished one is active from now on.
        last = torch.maximum(state.last, first)
        share = filled.gather(1, last.clamp(0, filled.shape[1] - 1).unsqueeze(1)).squeeze(1)
        more = (share >= self.add) & (state.origin + (last + 1) * state.size < rows.limit)
        last = torch.where(more & ~done, last + 1, last)

        start = state.origin + first * state.size
        end = torch.minimum(state.origin + (last + 1) * state.size, rows.length)
        # One more block is a new range too: the policy's paces and bounds count from there.
        step = torch.where(entering | (last != state.last), 0, state.step + 1)
        where = build_row_ranges(done, start, end, start, end, entering, step)
        window = open_window(canvas, view, where)
        groups = to_device(self._group_slots(filled, window, first, state), window.columns.device)
        first, last = torch.where(done, state.first, first), torch.where(done, state.last, last)
        return window._replace(groups=groups), state._replace(first=first, last=last, step=step)

    def _filled_shares(self, canvas: Canvas, view: HostView, state: PipelineState) -> Float64[Tensor, "b n"]:
        """Compute the decided share of each block's columns that are not given; 1 where there are none."""
        given, length = canvas.rows.given, rearrange(canvas.rows.length, "b -> b 1")
        column = torch.arange(given.shape[1])
        # The prompt left of the origin would have negative numbers. It is given, so it may be counted with block 0.
        block = number_block(column, rearrange(state.origin, "b -> b 1"), state.size).clamp(min=0)
        own = (~given & (column < length)).long()
        zeros = torch.zeros(len(given), int(block.max()) + 1, dtype=torch.int64)
        total = zeros.scatter_add(1, block, own)
        left = zeros.scatter_add(1, block, own * view.pending)
        # Double precision, so that a share such as 7/10 compares with `add` and `activate` as a Python number does.
        return torch.where(total > 0, (total - left).double() / total.clamp(min=1), 1.0)

    def _group_slots(
        self, filled: Float64[Tensor, "b n"], window: Window, first: Int[Tensor, " b"], state: PipelineState
    ) -> Int[Tensor, "b k"]:
        """Number the active block of each slot from 0; -1 in blocks that are not fully active (host)."""
        block = torch.arange(window.columns.shape[1]) // state.size
        left = rearrange(first, "b -> b 1") + block - 1
        active = filled.gather(1, left.clamp(0, filled.shape[1] - 1)) >= self.activate
        return torch.where(active | (block == 0), block, -1)
