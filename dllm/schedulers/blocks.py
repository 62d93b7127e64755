"""Fixed blocks from left to right, and the whole canvas as one block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import OpenedWindow, RowRanges, open_repeatable_window
from dllm.types import Canvas, HostView, Model, Scheduler, Window

DEFAULT_SIZE = 32


class BlocksState(NamedTuple):
    """Progress of a block scheduler, row by row (host).

    Attributes:
        size: Columns of a block.
        origin: Column from which blocks are counted.
        shift: Whether the model predicts the next column, so that a commit decides one.
        block: First column of the open block, -1 before the first.
        stored: Columns up to which finished blocks were committed.
        range: First column of the open range (block or sub-block).
        step: Steps taken in the open range.
        opened: The window of the last step, if the next one may open it again.
    """

    size: int
    origin: Int[Tensor, " b"]
    shift: bool
    block: Int[Tensor, " b"]
    stored: Int[Tensor, " b"]
    range: Int[Tensor, " b"]
    step: Int[Tensor, " b"]
    opened: OpenedWindow | None = None


@dataclass(frozen=True)
class Blocks(Scheduler):
    """Finish a block of columns before the next one is opened.

    Blocks begin at the end of the prompt (LLaDA, Dream) or lie at absolute multiples of their size (Fast-dLLM v2,
    SDAR), as the geometry of the model's family declares. Rows do not wait for each other.

    Attributes:
        size: Columns of a block. None: the model's attention block, or 32 where it has none.
        sub_block: Work through a block in windows of so many columns, each finished before the next. None: the window
            is the block.
        steps: Steps planned for a block, for policies with a pace; with sub-blocks they are shared out evenly among
            them.
        commit: Whether to run a finished block (and the prompt) once more before the next is opened, so that what is
            stored was computed from decided tokens alone. With a token-shifted model that forward also decides the next
            block's first column, greedily. Fast-dLLM v2 and SDAR are published so; without it a cache stores the
            finished block in the forward that opens the next. Block-causal models only.
        first_alone: Whether, on entering a block, to decide its first column alone and then work on the whole block
            (Dream).

    References:
        Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), Algorithm 1; Fast-dLLM v2 (arXiv:2509.26328), section 3.3.
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
        if self.commit and model.geometry.block is None:
            raise ConfigError(
                f"{self}: commit stores finished blocks, which attention in both directions never is done with; "
                "use commit=False"
            )
        return initial_blocks_state(canvas, model, size)

    def entering(self, canvas: Canvas, view: HostView, state: BlocksState, /) -> Bool[Tensor, " b"]:
        return open_blocks(view, state) != state.block

    def step(self, canvas: Canvas, view: HostView, state: BlocksState, /) -> tuple[Window | None, BlocksState]:
        if (found := _open_again(view, state)) is not None:
            return found
        done = self.finished(canvas, view, state)
        if bool(done.all()):
            return None, state
        block = open_blocks(view, state)
        where, state = plan_row_ranges(self, canvas, view, block, block + state.size, done, state)
        steps = self.steps
        if steps is not None and self.sub_block is not None:
            steps = max(1, steps * self.sub_block // state.size)
        return _open_anew(canvas, view, where, steps, state)


@dataclass(frozen=True)
class Whole(Scheduler):
    """Work on all pending columns at once: the canvas is one block.

    With a block-causal model the attention keeps its blocks, but columns may be decided in any order.

    Attributes:
        steps: Steps planned for the whole canvas, for policies with a pace.
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"Whole(steps={self.steps}): steps must be at least 1")

    def init(self, canvas: Canvas, model: Model, /) -> BlocksState:
        return initial_blocks_state(canvas, model, model.geometry.block or 1)

    def _first_block(self, canvas: Canvas, state: BlocksState) -> Int[Tensor, " b"]:
        """Find where each row's only block begins."""
        return floor_to_block(canvas.rows.prompt, state.origin, state.size)

    def entering(self, canvas: Canvas, view: HostView, state: BlocksState, /) -> Bool[Tensor, " b"]:
        return self._first_block(canvas, state) != state.block

    def step(self, canvas: Canvas, view: HostView, state: BlocksState, /) -> tuple[Window | None, BlocksState]:
        if (found := _open_again(view, state)) is not None:
            return found
        done = self.finished(canvas, view, state)
        if bool(done.all()):
            return None, state
        first = self._first_block(canvas, state)
        where, state = plan_row_ranges(Blocks(), canvas, view, first, canvas.rows.length, done, state)
        return _open_anew(canvas, view, where, self.steps, state)


def resolve_block_size(scheduler: Scheduler, size: int | None, model: Model) -> int:
    """Choose how many columns a block of a scheduler has.

    Args:
        scheduler: The scheduler, which an error names.
        size: The size that it is configured with. None: that of the attention block, or DEFAULT_SIZE where there is
            none.
        model: The model.

    Raises:
        ConfigError: Attention has blocks of another size.
    """
    attends_in = model.geometry.block
    if attends_in is None:
        return size or DEFAULT_SIZE
    if size not in (None, attends_in):
        raise ConfigError(
            f"{scheduler}: the model attends in blocks of {attends_in}; leave size out or use model.with_block"
        )
    return attends_in


def initial_blocks_state(canvas: Canvas, model: Model, size: int) -> BlocksState:
    """Make the state before the first step."""
    zeros = torch.zeros_like(canvas.rows.prompt)
    return BlocksState(
        size=size,
        origin=block_origin(canvas, model),
        shift=model.needs_left > 0,
        block=zeros - 1,
        stored=zeros,
        range=zeros - 1,
        step=zeros,
    )


def block_origin(canvas: Canvas, model: Model) -> Int[Tensor, " b"]:
    """Find the column from which the blocks of each row are counted: 0 if they are aligned, else the prompt's end."""
    prompt = canvas.rows.prompt
    return torch.zeros_like(prompt) if model.geometry.aligned else prompt


def number_block(column: Int[Tensor, "..."], origin: Int[Tensor, "..."], size: int) -> Int[Tensor, "..."]:
    """Find the number of the block in which a column lies; negative left of the origin."""
    return torch.div(column - origin, size, rounding_mode="floor")


def floor_to_block(column: Int[Tensor, " b"], origin: Int[Tensor, " b"], size: int) -> Int[Tensor, " b"]:
    """Find the first column of the block in which a column lies.

    Args:
        column: A column of each row.
        origin: Column from which blocks are counted.
        size: Columns of a block.
    """
    return origin + number_block(column, origin, size) * size


def open_blocks(view: HostView, state: BlocksState) -> Int[Tensor, " b"]:
    """Find the first column of the block that each row works in.

    That is the block of its first pending column, or the one that it is held in.
    """
    return view.unless_held(state.block, floor_to_block(view.head, state.origin, state.size))


def _open_again(view: HostView, state: BlocksState) -> tuple[Window, BlocksState] | None:
    """Open the window of the last step again, where every row stays in its range; None where one does not."""
    if state.opened is None:
        return None
    step = state.step + 1
    window = state.opened.open_again(view, step)
    return None if window is None else (window, state._replace(step=step))


def _open_anew(
    canvas: Canvas, view: HostView, where: RowRanges, steps: int | None, state: BlocksState
) -> tuple[Window, BlocksState]:
    """Open the window over the ranges `where`, and remember it for the next step."""
    window, opened = open_repeatable_window(canvas, view, where, steps)
    return window, state._replace(opened=opened)


def plan_row_ranges(
    how: Blocks,
    canvas: Canvas,
    view: HostView,
    block: Int[Tensor, " b"],
    block_end: Int[Tensor, " b"],
    done: Bool[Tensor, " b"],
    state: BlocksState,
) -> tuple[RowRanges, BlocksState]:
    """Decide where each row works next.

    Args:
        how: The sub-blocks and the commits.
        canvas: The canvas.
        view: The canvas on the host.
        block: First column of the block that each row works in.
        block_end: One past its last column.
        done: Rows that have nothing left to do.
        state: State of the step before.

    Returns:
        The ranges, and the state of this step.
    """
    head, length = view.head, canvas.rows.length
    entering = block != state.block
    commit = alone = torch.zeros_like(done)
    entered = entering & ~done
    if how.commit:
        # A row that enters a block first stores everything left of it, in a step of its own. It enters in the next one.
        commit = entered & (block > state.stored)
        entered = entered & ~commit

    block_end = torch.minimum(block_end, length)
    start, end, moved = block, block_end, entering
    if how.sub_block is not None:
        start = floor_to_block(head, block, how.sub_block)
        start = view.unless_held(state.range, start)
        end = torch.minimum(start + how.sub_block, block_end)
        moved = entering | (start != state.range)
    if how.first_alone:
        alone = entered & (head == block)  # not where the first column is given, or was decided by a commit
        end = torch.where(alone, block + 1, end)
    step = torch.where(moved, 0, state.step + 1)
    # Rows that are done, and rows that only commit, do not open a range: they keep the one that they remember.
    elsewhere = done | commit if how.commit else done
    state = state._replace(
        block=torch.where(entered, block, state.block),
        range=torch.where(elsewhere, state.range, start),
        step=torch.where(elsewhere, state.step, step),
    )
    if how.commit:
        # The logits of a token-shifted commit predict the first column of the new block: it is decided there.
        last = view.pending.shape[1] - 1
        decides = view.pending.gather(1, block.clamp(max=last).unsqueeze(1)).squeeze(1) & state.shift
        start = torch.where(commit, block, start)
        end = torch.where(commit, block + decides.long(), end)
        block_end = torch.where(commit, block, block_end)
        state = state._replace(stored=torch.where(commit, block, state.stored))
    if any(done.tolist()):
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
    return where, state
