"""Fixed blocks from left to right, and the whole canvas as one block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import (
    HostView,
    OpenedWindow,
    RowRanges,
    copy_pending_to_host,
    finished_rows,
    open_reusable_window,
)
from dllm.types import BlockCausal, Canvas, Model, Scheduler, Window

DEFAULT_SIZE = 32


class BlocksState(NamedTuple):
    """Where a block scheduler stands, row by row (host).

    size    columns of a block
    origin  (b,) column from which blocks are counted
    shift   the model predicts the next column, so a commit decides one
    block   (b,) start of the open block, -1 before the first
    stored  (b,) columns up to which finished blocks were committed
    range   (b,) start of the open range (block or sub-block)
    step    (b,) steps taken in the open range
    last    the open range, if the next step may work on it again
    """

    size: int
    origin: Tensor
    shift: bool
    block: Tensor
    stored: Tensor
    range: Tensor
    step: Tensor
    last: OpenedWindow | None = None


@dataclass(frozen=True)
class Blocks:
    """Finish a block of columns before the next one is opened.

    Blocks begin at the end of the prompt (LLaDA, Dream) or lie at absolute multiples of their size (Fast-dLLM v2,
    SDAR), as the model's family says. Rows do not wait for each other.

    size         columns of a block; None: the model's attention block, or 32 where it has none
    sub_block    work through a block in windows of so many columns, each finished before the next
    steps        steps planned for a block, for policies with a pace; with sub-blocks shared out evenly among them
    commit       run a finished block (and the prompt) once more before the next is opened, so that what is stored was
                 computed from decided tokens alone; with a token-shifted model that forward also decides the next
                 block's first column, greedily. Published so by Fast-dLLM v2 and SDAR; without it a cache stores the
                 finished block in the forward that opens the next. Block-causal models only
    first_alone  on entering a block decide its first column alone, then work on the whole block (Dream)

    Reference: Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), Algorithm 1; Fast-dLLM v2 (arXiv:2509.26328), section 3.3.
    """

    size: int | None = None
    sub_block: int | None = None
    steps: int | None = None
    commit: bool = False
    first_alone: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ConfigError(f"Blocks(size={self.size}): size must be at least 1")
        limit = self.size if self.size is not None else 2**31
        if self.sub_block is not None and not 1 <= self.sub_block <= limit:
            raise ConfigError(f"{self}: sub_block must lie in 1..{limit}, the block's size")
        if self.steps is not None and not 1 <= self.steps <= limit:
            raise ConfigError(f"{self}: steps must lie in 1..{limit}; every step commits at least one token")

    def init(self, canvas: Canvas, model: Model, /) -> BlocksState:
        size = resolve_block_size(self, self.size, model)
        if self.commit and not isinstance(model.geometry, BlockCausal):
            raise ConfigError(
                f"{self}: commit stores finished blocks, which attention in both directions never is done with; "
                "use commit=False"
            )
        return initial_blocks_state(canvas, model, size)

    def step(self, canvas: Canvas, plan: BlocksState, /) -> tuple[Window | None, BlocksState]:
        sight = copy_pending_to_host(canvas)
        if (found := _reuse_window(canvas, sight, plan)) is not None:
            return found
        block = plan.origin + torch.div(sight.head - plan.origin, plan.size, rounding_mode="floor") * plan.size
        block = sight.move(plan.block, block)
        where, plan = plan_row_ranges(self, canvas, sight, block, block + plan.size, plan)
        steps = self.steps
        if steps is not None and self.sub_block is not None:
            steps = max(1, steps * self.sub_block // plan.size)
        return _open_next_window(canvas, sight, where, steps, plan)


@dataclass(frozen=True)
class Whole:
    """All pending columns at once: the canvas is one block.

    steps  steps planned for the whole canvas, for policies with a pace

    With a block-causal model the attention keeps its blocks, but columns may be decided in any order.
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"Whole(steps={self.steps}): steps must be at least 1")

    def init(self, canvas: Canvas, model: Model, /) -> BlocksState:
        return initial_blocks_state(
            canvas, model, model.geometry.size if isinstance(model.geometry, BlockCausal) else 1
        )

    def step(self, canvas: Canvas, plan: BlocksState, /) -> tuple[Window | None, BlocksState]:
        sight = copy_pending_to_host(canvas)
        if (found := _reuse_window(canvas, sight, plan)) is not None:
            return found
        first = plan.origin + torch.div(canvas.rows.prompt - plan.origin, plan.size, rounding_mode="floor") * plan.size
        where, plan = plan_row_ranges(Blocks(), canvas, sight, first, canvas.rows.length, plan)
        return _open_next_window(canvas, sight, where, self.steps, plan)


def resolve_block_size(scheduler: Scheduler, size: int | None, model: Model) -> int:
    """Columns of a block where a scheduler asks for `size`, or for None. Raises `ConfigError` where attention has other
    blocks."""
    if not isinstance(model.geometry, BlockCausal):
        return size or DEFAULT_SIZE
    if size not in (None, model.geometry.size):
        raise ConfigError(
            f"{scheduler}: the model attends in blocks of {model.geometry.size}; leave size out or use model.with_block"
        )
    return model.geometry.size


def initial_blocks_state(canvas: Canvas, model: Model, size: int) -> BlocksState:
    """The plan before the first step."""
    prompt = canvas.rows.prompt
    zeros = torch.zeros_like(prompt)
    return BlocksState(
        size=size,
        origin=zeros if model.geometry.aligned else prompt,
        shift=model.needs_left > 0,
        block=zeros - 1,
        stored=zeros,
        range=zeros - 1,
        step=zeros,
    )


def _reuse_window(canvas: Canvas, sight: HostView, plan: BlocksState) -> tuple[Window, BlocksState] | None:
    """The next window where every row stays in its range: most steps, and much cheaper than to find out anew."""
    if plan.last is None:
        return None
    step = plan.step + 1
    window = plan.last.again(canvas, sight, step)
    return None if window is None else (window, plan._replace(step=step))


def _open_next_window(
    canvas: Canvas, sight: HostView, where: RowRanges | None, steps: int | None, plan: BlocksState
) -> tuple[Window | None, BlocksState]:
    """The next window over the ranges `where`; None when all rows are done."""
    window, last = (None, None) if where is None else open_reusable_window(canvas, sight.pending, where, steps)
    return window, plan._replace(last=last)


def plan_row_ranges(
    how: Blocks, canvas: Canvas, sight: HostView, block: Tensor, block_end: Tensor, plan: BlocksState
) -> tuple[RowRanges | None, BlocksState]:
    """Where each row works next, given the block it works in; None when all rows are done."""
    head, rows = sight.head, canvas.rows
    entering = block != plan.block
    done = finished_rows(canvas, sight, entering)
    over = done.tolist()
    if all(over):
        return None, plan
    commit = alone = torch.zeros_like(done)
    entered = entering & ~done
    if how.commit:
        commit = entered & (block > plan.stored)
        entered = entered & ~commit

    block_end = torch.minimum(block_end, rows.length)
    start, end, moved = block, block_end, entering
    if how.sub_block is not None:
        start = block + torch.div(head - block, how.sub_block, rounding_mode="floor") * how.sub_block
        start = sight.move(plan.range, start)
        end = torch.minimum(start + how.sub_block, block_end)
        moved = entering | (start != plan.range)
    if how.first_alone:
        alone = entered & (head == block)
        end = torch.where(alone, block + 1, end)
    step = torch.where(moved, 0, plan.step + 1)
    elsewhere = done | commit if how.commit else done
    plan = plan._replace(
        block=torch.where(entered, block, plan.block),
        range=torch.where(elsewhere, plan.range, start),
        step=torch.where(elsewhere, plan.step, step),
    )
    if how.commit:
        last = sight.pending.shape[1] - 1
        decides = sight.pending.gather(1, block.clamp(max=last).unsqueeze(1)).squeeze(1) & plan.shift
        start = torch.where(commit, block, start)
        end = torch.where(commit, block + decides.long(), end)
        block_end = torch.where(commit, block, block_end)
        plan = plan._replace(stored=torch.where(commit, block, plan.stored))
    if any(over):
        start, end, block, block_end = (torch.where(done, 0, column) for column in (start, end, block, block_end))
    where = RowRanges(
        start=start,
        end=end,
        block_start=block,
        block_end=block_end,
        entered=entered,
        commit=commit,
        forced=commit | alone,
        step=step,
        closed=done,
    )
    return where, plan
