"""Several blocks at a time, each begun before the one left of it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import Sight, finished, look, open_window, work
from dllm.schedulers.blocks import size_of_blocks
from dllm.transfer import to_device
from dllm.types import Canvas, Model, Window


class Plan(NamedTuple):
    """Where the pipeline stands, row by row (host); blocks are numbered from `origin`.

    size    columns of a block
    origin  (b,) column from which blocks are counted
    first   (b,) number of the first active block, -1 before the first step
    last    (b,) number of the last active block
    step    (b,) steps taken since the row's active blocks were last changed
    """

    size: int
    origin: Tensor
    first: Tensor
    last: Tensor
    step: Tensor


@dataclass(frozen=True)
class Pipeline:
    """Work on a run of blocks: the first unfinished one and those begun behind it.

    The next block is added when the last one is filled to the share `add`, at most one a step. In each step every block
    that is fully active decides at least one token: the first one is, and another one once the block left of it is
    filled to the share `activate`. In the other active blocks only what the policy accepts is decided. An `add` above 1
    leaves one active block at a time, which is `Blocks(size)`.

    size      columns of a block; None: the model's attention block, or 32 where it has none
    add       share of the last active block, of 0 to 1, at which the next one is added
    activate  share of a block at which the next one is fully active

    Given columns do not count. The cache is refreshed when the first active block is finished and the next one comes
    to be the first: that forward stores the finished block. The keys of a block that is only partly decided go stale as
    it fills; but all active blocks are in the window, so that `PrefixCache` and `DualCache` run all of them in every
    step, and with block-causal attention both are exact.

    Reference: Wang et al. 2025, D2F (arXiv:2508.09192), decoding only, as its authors' LoPA repository has it; its
    models attend block by block. Departs from it: blocks beyond the last active one are on the canvas from the
    beginning, which only a model that attends in both directions can see; a block of a finished text is added when all
    before it are finished, whatever `add` says; rows do not wait for each other (published for one row).
    """

    size: int | None = None
    add: float = 0.1
    activate: float = 0.95

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"{self}: size must be at least 1")
        if not self.add > 0 or not self.activate >= 0:
            raise ConfigError(f"{self}: add must be above 0 and activate 0 or more; they are shares of a block")

    def init(self, canvas: Canvas, model: Model, /) -> Plan:
        zeros = torch.zeros_like(canvas.rows.prompt)
        origin = zeros if model.geometry.aligned else canvas.rows.prompt
        return Plan(size_of_blocks(self, self.size, model), origin, zeros - 1, zeros - 1, zeros)

    def step(self, canvas: Canvas, plan: Plan, /) -> tuple[Window | None, Plan]:
        sight = look(canvas)
        rows = canvas.rows
        first = torch.div(sight.head - plan.origin, plan.size, rounding_mode="floor")
        first = sight.move(plan.first, first)
        entering = first != plan.first
        done = finished(canvas, sight, entering)
        if bool(done.all()):
            return None, plan
        filled = self.filled(canvas, sight, plan)
        last = torch.maximum(plan.last, first)
        share = filled.gather(1, last.clamp(0, filled.shape[1] - 1).unsqueeze(1)).squeeze(1)
        more = (share >= self.add) & (plan.origin + (last + 1) * plan.size < rows.limit)
        last = torch.where(more & ~done, last + 1, last)

        start = plan.origin + first * plan.size
        end = torch.minimum(plan.origin + (last + 1) * plan.size, rows.length)
        step = torch.where(entering | (last != plan.last), 0, plan.step + 1)
        where = work(done, start, end, start, end, entering, step)
        window = open_window(canvas, sight.pending, where, None)
        groups = to_device(self.groups(filled, window, first, plan), window.columns.device)
        first, last = torch.where(done, plan.first, first), torch.where(done, plan.last, last)
        return window._replace(groups=groups), plan._replace(first=first, last=last, step=step)

    def filled(self, canvas: Canvas, sight: Sight, plan: Plan) -> Tensor:
        """Share (b, n) of each block that is decided, of the columns that are not given; 1 where there are none."""
        given, length = canvas.rows.given, rearrange(canvas.rows.length, "b -> b 1")
        column = torch.arange(given.shape[1])
        block = torch.div(column - rearrange(plan.origin, "b -> b 1"), plan.size, rounding_mode="floor").clamp(min=0)
        own = (~given & (column < length)).long()
        blank = torch.zeros(len(given), int(block.max()) + 1, dtype=torch.int64)
        total = blank.scatter_add(1, block, own)
        left = blank.scatter_add(1, block, own * sight.pending)
        return torch.where(total > 0, (total - left).double() / total.clamp(min=1), 1.0)

    def groups(self, filled: Tensor, window: Window, first: Tensor, plan: Plan) -> Tensor:
        """The active block (b, k) of each slot, from 0; -1 in those that are not fully active (host)."""
        block = torch.arange(window.columns.shape[1]) // plan.size
        left = rearrange(first, "b -> b 1") + block - 1
        ripe = filled.gather(1, left.clamp(0, filled.shape[1] - 1)) >= self.activate
        return torch.where(ripe | (block == 0), block, -1)
