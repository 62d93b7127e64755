"""Rows that grow while they are written: by end-of-text confidence at first, by insertion of columns later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.schedulers.base import narrow_window, open_window
from dllm.schedulers.blocks import (
    Blocks,
    BlocksState,
    initial_blocks_state,
    open_blocks,
    plan_row_ranges,
    resolve_block_size,
)
from dllm.schedulers.lengths import lengthen_rows, shorten_rows
from dllm.transfer import to_device
from dllm.types import Canvas, Geometry, Guess, HostView, Model, Scheduler, Window


class VariableLengthState(NamedTuple):
    """Progress of rows of variable length.

    `most`, `moved` and all of `blocks` are on the host, the other tensors on the model's device.

    Attributes:
        blocks: State of the blocks in which each row works.
        geometry: How columns attend.
        blank: Id that new columns hold.
        ends: End-of-text ids.
        most: Limit that the request allows.
        moved: Rows whose columns were moved by the last step.
        stop: One past the last column of the row's block.
        floor: First column in which end-of-text is looked for.
        limit: One past the last such column; 0 where the window does not reach the row's end.
        room: Columns by which the row may still grow.
        ended: Columns that hold end-of-text.
        growing: Rows that are still in the first phase.
        grow: Rows that the last forward makes longer before anything is decided.
        insert: Rows in which the last forward may put columns between others.
    """

    blocks: BlocksState
    geometry: Geometry
    blank: int
    ends: Int[Tensor, " n"]
    most: Int[Tensor, " b"]
    moved: Bool[Tensor, " b"]
    stop: Int[Tensor, " b"]
    floor: Int[Tensor, " b"]
    limit: Int[Tensor, " b"]
    room: Int[Tensor, " b"]
    ended: Bool[Tensor, "b t"]
    growing: Bool[Tensor, " b"]
    grow: Bool[Tensor, " b"]
    insert: Bool[Tensor, " b"]


@dataclass(frozen=True)
class VariableLength(Scheduler):
    """Begin short, and grow: the request's length is the most that a row may have.

    First, while end-of-text is predicted at the row's end with a confidence below `enough`, a forward decides nothing
    and adds `growth` columns. Then the row is written block by block; in every step in which that confidence is below
    `certain`, the pending column of the block with the least confident candidate, if below `low`, is replaced by
    `growth` columns: everything right of it moves, given columns too. With `enough` and `certain` 0 the length stays at
    `initial`; with an `initial` of the request's length this is `Blocks(size)`.

    The confidence is the mean over the last `tail` columns in which end-of-text is predicted. Where there are fewer,
    the missing ones count as 0; a decided one counts as 1.

    To see a row's end, the window's range reaches from the block to there and `refine` makes only the block pending;
    `DualCache` therefore is `PrefixCache` here. Attention that is block-causal sees no further than its block: the
    confidence is then that of the last block, measured once it is reached, and rows grow by whole attention blocks.
    Every cache refreshes the columns that moved. A row that may still grow costs one more copy to the host a step,
    right before that of the next step.

    Attributes:
        size: Columns of a block. None: the model's attention block, or 32 where it has none.
        initial: New tokens that a row begins with.
        growth: Columns added at a time; 1 never inserts.
        enough: End-of-text confidence with which the first phase ends.
        certain: End-of-text confidence from which on nothing is inserted.
        low: Confidence of a candidate below which columns are inserted at its place.
        tail: Columns over which the confidence is taken.
        ends: End-of-text ids. None: those of the checkpoint.

    References:
        Li et al. 2025, DAEDAL (arXiv:2508.00819), Algorithm 1 and its code; use `Threshold(0.9, strict=True)`.

    Departures:
        The forward that ends the first phase also decides the first tokens; `tail // 2` columns of decided end-of-text
        are not put behind the row then. The confidence is taken from the block on, and relative to the columns there if
        these are fewer than `tail`. A row that is full keeps its tail, while the published code cuts it off. A row's
        growth does not depend on its neighbours.
    """

    size: int | None = None
    initial: int = 64
    growth: int = 8
    enough: float = 0.5
    certain: float = 0.9
    low: float = 0.1
    tail: int = 32
    ends: tuple[int, ...] | None = None

    moves_columns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.size or 1, self.initial, self.growth, self.tail) < 1:
            raise ConfigError(f"{self}: size, initial, growth and tail must be at least 1")
        if not min(self.enough, self.certain, self.low) >= 0:
            raise ConfigError(f"{self}: enough, certain and low must be 0 or more; they are confidences")
        if self.ends == ():
            raise ConfigError(f"{self}: ends must hold an id; None takes those of the checkpoint")

    def init(self, canvas: Canvas, model: Model, /) -> VariableLengthState:
        ids = model.stop_ids if self.ends is None else self.ends
        if not ids:
            raise ConfigError(f"{self}: the checkpoint names no end token; give ends")
        device = canvas.tokens.device
        size = resolve_block_size(self, self.size, model)
        zeros = torch.zeros_like(canvas.rows.limit)
        none = torch.zeros(len(zeros), dtype=torch.bool)
        zeros_there, none_there = to_device(zeros, device), to_device(none, device)
        return VariableLengthState(
            blocks=initial_blocks_state(canvas, model, size),
            geometry=model.geometry,
            blank=model.mask_id if model.mask_id is not None else 0,
            ends=to_device(torch.tensor(ids), device),
            most=canvas.rows.limit,
            moved=none,
            stop=zeros_there,
            floor=zeros_there,
            limit=zeros_there,
            room=zeros_there,
            ended=torch.zeros_like(canvas.pending),
            growing=to_device(~none, device),
            grow=none_there,
            insert=none_there,
        )

    def entering(self, canvas: Canvas, view: HostView, state: VariableLengthState, /) -> Bool[Tensor, " b"]:
        return open_blocks(view, state.blocks) != state.blocks.block

    def step(
        self, canvas: Canvas, view: HostView, state: VariableLengthState, /
    ) -> tuple[Window | None, VariableLengthState]:
        rows, block, done = canvas.rows, open_blocks(view, state.blocks), self.finished(canvas, view, state)
        if bool(done.all()):
            return None, state
        where, blocks = plan_row_ranges(Blocks(), canvas, view, block, block + state.blocks.size, done, state.blocks)
        stop = where.end
        if state.geometry.block is None:
            # The row's end has to be predicted too, so the range reaches there; `refine` restricts it to the block.
            where = where._replace(end=torch.where(where.closed, 0, rows.length))
        # Columns that moved have to be stored anew: for the caches such a row enters its block once more.
        step = torch.where(state.moved, 0, where.step)
        where = where._replace(entered=where.entered | (state.moved & ~where.closed), step=step)
        seen = where.end >= rows.length
        stop, floor, limit, room = (
            to_device(x, canvas.tokens.device)
            for x in (
                stop,
                torch.maximum(rows.text, where.start),
                torch.where(seen, rows.limit, 0),
                state.most - rows.limit,
            )
        )
        blocks = blocks._replace(step=step)
        state = state._replace(blocks=blocks, stop=stop, floor=floor, limit=limit, room=room)
        return open_window(canvas, view, where), state

    def refine(self, guess: Guess, window: Window, state: VariableLengthState, /) -> tuple[Window, VariableLengthState]:
        # A row that is to grow first has no slots at all here: its forward decides nothing.
        confidence, seen = self._end_confidence(guess, window, state)
        grow = state.growing & seen & (confidence < self.enough) & (state.room > 0)
        keep = window.valid & (window.columns < rearrange(state.stop, "b -> b 1")) & ~rearrange(grow, "b -> b 1")
        # The first phase lasts until the end was seen and found good enough. Full rows leave it too.
        growing = state.growing & (grow | ~seen)
        insert = seen & (confidence < self.certain)
        return narrow_window(window, keep), state._replace(growing=growing, grow=grow, insert=insert)

    def _end_confidence(
        self, guess: Guess, window: Window, state: VariableLengthState
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """Compute how confident the model is that each row's text ends in it, and whether its end was seen."""
        floor, limit = rearrange(state.floor, "b -> b 1"), rearrange(state.limit, "b -> b 1")
        region = window.valid & (window.columns >= floor) & (window.columns < limit)
        ends = region & torch.where(window.pending, torch.isin(guess.mode, state.ends), window.take(state.ended))
        # Only the last `tail` columns of end-of-text count. The divisor does not shrink with their number, so that a
        # row with few of them is taken to be too short.
        from_right = ends.flip(1).cumsum(1).flip(1)
        confidence = torch.where(window.pending, guess.p1, 1.0) * (ends & (from_right <= self.tail))
        columns = region.sum(1)
        return confidence.sum(1) / columns.clamp(1, self.tail), columns > 0

    def arrange(
        self, canvas: Canvas, guess: Guess | None, window: Window | None, state: VariableLengthState, /
    ) -> tuple[Canvas, Int[Tensor, "b t"] | None, VariableLengthState]:
        if guess is None or window is None:  # before the first step
            limit = torch.minimum(state.most, state.geometry.extent(canvas.rows.text + self.initial))
            canvas, moved = shorten_rows(canvas, limit, state.geometry.extent(limit)), None
        else:
            canvas, moved, state = self._grow_rows(canvas, guess, window, state)
        # Noted here and not in the next step, in which the host has waited already and would wait again.
        return canvas, moved, state._replace(ended=torch.isin(canvas.tokens, state.ends) & ~canvas.pending)

    def _grow_rows(
        self, canvas: Canvas, guess: Guess, window: Window, state: VariableLengthState
    ) -> tuple[Canvas, Int[Tensor, "b t"] | None, VariableLengthState]:
        """Make rows longer at their end (first phase) or in the middle (later), as `arrange` does after a step."""
        rows = canvas.rows
        unchanged = canvas, None, state._replace(moved=torch.zeros_like(state.moved))
        # The host knows whether any row has room left. Once none has, a step costs no copy to the host.
        if not bool((state.most > rows.limit).any()):
            return unchanged
        # The step has been decided already, so a slot may be pending in the window but not on the canvas any more.
        lost = torch.where(window.pending & window.take(canvas.pending), guess.confidence, torch.inf)
        worst, slot = lost.min(1, keepdim=True)
        insert = state.insert & ~state.grow & (state.room > 0) & (worst.squeeze(1) < self.low)
        column = window.columns.gather(1, slot).squeeze(1)
        # A row in which nothing is pending any more does not grow. One copy brings all three to the host.
        grow, insert, column = torch.stack([(state.grow & canvas.pending.any(1)).long(), insert.long(), column]).cpu()
        # An insertion turns one pending column into `growth` of them, so only growth - 1 are new.
        more = torch.where(grow > 0, self.growth, (self.growth - 1) * insert)
        if not bool(more.any()):
            return unchanged
        at = torch.where(grow > 0, rows.length, column + 1)
        canvas, moved = lengthen_rows(canvas, at, more, state.most, state.geometry, state.blank)
        return canvas, moved, state._replace(moved=more > 0)
