"""Rows that grow while they are written: by end-of-text confidence at first, by insertion where the model is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import ConfigError
from dllm.lengths import move
from dllm.schedulers import blocks
from dllm.schedulers.base import look, narrow, open_window
from dllm.schedulers.blocks import Blocks, advance, size_of_blocks
from dllm.transfer import to_device
from dllm.types import Bidirectional, Canvas, Geometry, Guess, Model, Window, text_start


class Plan(NamedTuple):
    """Where rows of variable length stand.

    blocks    the block that each row works in
    geometry  how columns attend
    blank     id that new columns hold
    ends      (n,) end-of-text ids; on the model's device
    most      (b,) host; the limit that the request allows
    moved     (b,) host; rows whose columns have just moved
    stop      (b,) one past the block's last column; this and what follows on the model's device
    floor     (b,) first column in which end-of-text is looked for
    limit     (b,) one past the last one; 0 where the window does not reach the row's end
    room      (b,) columns that the row may still grow by
    ended     (b, t) columns that hold end-of-text
    growing   (b,) the row has not been found long enough yet
    grow      (b,) rows that the last forward makes longer before anything is decided
    insert    (b,) rows in which it may put columns between others
    """

    blocks: blocks.Plan
    geometry: Geometry
    blank: int
    ends: Tensor
    most: Tensor
    moved: Tensor
    stop: Tensor
    floor: Tensor
    limit: Tensor
    room: Tensor
    ended: Tensor
    growing: Tensor
    grow: Tensor
    insert: Tensor


@dataclass(frozen=True)
class VariableLength:
    """Begin short, and grow: the request's length is the most that a row may have.

    First, while end-of-text is predicted at the row's end with a confidence below `enough`, a forward decides nothing
    and adds `growth` columns. Then the row is written block by block; in every step in which that confidence is below
    `certain`, the pending column of the block that is predicted worst, if below `low`, makes room for `growth` columns:
    what lies right of it moves, what is given too. With `enough` and `certain` 0 the length stays at `initial`; with
    an `initial` of the request's length this is `Blocks(size)`.

    The confidence is the mean over the last `tail` columns in which end-of-text is predicted, taken as 0 as far as
    there are fewer; a decided one counts as certain.

    size     columns of a block; None: the model's attention block, or 32 where it has none
    initial  new tokens that a row begins with
    growth   columns added at a time; 1 never inserts
    enough   end-of-text confidence with which the first phase ends
    certain  end-of-text confidence from which nothing is inserted
    low      confidence of a candidate below which its column makes room
    tail     columns over which the confidence is taken
    ends     end-of-text ids; None: those of the checkpoint

    To see a row's end, the window's range reaches from the block to there and `refine` makes only the block pending;
    `DualCache` therefore is `PrefixCache` here. Attention that is block-causal sees no further than its block: the
    confidence is then that of the last block, measured once it is reached, and rows grow by whole attention blocks.
    What moves is refreshed by every cache. A row that may still grow costs one more copy to the host a step, right
    before that of the next step.

    Reference: Li et al. 2025, DAEDAL (arXiv:2508.00819), Algorithm 1 and its code; use `Threshold(0.9, strict=True)`.
    Departs from it: the forward that ends the first phase also decides the first tokens; `tail // 2` columns of
    decided end-of-text are not put behind the row then; the confidence is taken from the block on, and relative to the
    columns there if these are fewer than `tail`; a row that is full keeps its tail where the code cuts it off. A row's
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

    def __post_init__(self) -> None:
        if min(self.size or 1, self.initial, self.growth, self.tail) < 1:
            raise ConfigError(f"{self}: size, initial, growth and tail must be at least 1")
        if not min(self.enough, self.certain, self.low) >= 0:
            raise ConfigError(f"{self}: enough, certain and low must be 0 or more; they are confidences")
        if self.ends == ():
            raise ConfigError(f"{self}: ends must hold an id; None takes those of the checkpoint")

    def init(self, canvas: Canvas, model: Model, /) -> Plan:
        ids = model.stop_ids if self.ends is None else self.ends
        if not ids:
            raise ConfigError(f"{self}: the checkpoint names no end token; give ends")
        device = canvas.tokens.device
        size = size_of_blocks(self, self.size, model)
        zeros = torch.zeros_like(canvas.rows.limit)
        none = torch.zeros(len(zeros), dtype=torch.bool)
        here = to_device(zeros, device)
        return Plan(
            blocks=blocks.begin(canvas, model, size),
            geometry=model.geometry,
            blank=model.mask_id if model.mask_id is not None else 0,
            ends=to_device(torch.tensor(ids), device),
            most=canvas.rows.limit,
            moved=none,
            stop=here,
            floor=here,
            limit=here,
            room=here,
            ended=torch.zeros_like(canvas.pending),
            growing=to_device(~none, device),
            grow=to_device(none, device),
            insert=to_device(none, device),
        )

    def step(self, canvas: Canvas, plan: Plan, /) -> tuple[Window | None, Plan]:
        sight, rows, size = look(canvas), canvas.rows, plan.blocks.size
        block = plan.blocks.origin + torch.div(sight.head - plan.blocks.origin, size, rounding_mode="floor") * size
        block = sight.move(plan.blocks.block, block)
        where, now = advance(Blocks(), canvas, sight, block, block + size, plan.blocks)
        if where is None:
            return None, plan
        stop = where.end
        if isinstance(plan.geometry, Bidirectional):
            where = where._replace(end=torch.where(where.closed, 0, rows.length))
        step = torch.where(plan.moved, 0, where.step)
        where = where._replace(entered=where.entered | (plan.moved & ~where.closed), step=step)
        seen = where.end >= rows.length
        stop, floor, limit, room = (
            to_device(x, canvas.tokens.device)
            for x in (
                stop,
                torch.maximum(rows.text, where.start),
                torch.where(seen, rows.limit, 0),
                plan.most - rows.limit,
            )
        )
        plan = plan._replace(blocks=now._replace(step=step), stop=stop, floor=floor, limit=limit, room=room)
        return open_window(canvas, sight.pending, where, None), plan

    def refine(self, guess: Guess, window: Window, plan: Plan, /) -> tuple[Window, Plan]:
        """The window without what lies behind the block, and without anything in rows that are still to grow."""
        sure, seen = self.confidence(guess, window, plan)
        grow = plan.growing & seen & (sure < self.enough) & (plan.room > 0)
        keep = window.valid & (window.columns < rearrange(plan.stop, "b -> b 1")) & ~rearrange(grow, "b -> b 1")
        growing = plan.growing & (grow | ~seen)
        return narrow(window, keep), plan._replace(growing=growing, grow=grow, insert=seen & (sure < self.certain))

    def confidence(self, guess: Guess, window: Window, plan: Plan) -> tuple[Tensor, Tensor]:
        """How sure it is that the text ends within the row (b,), and whether its end was seen."""
        floor, limit = rearrange(plan.floor, "b -> b 1"), rearrange(plan.limit, "b -> b 1")
        region = window.valid & (window.columns >= floor) & (window.columns < limit)
        ends = region & torch.where(window.pending, torch.isin(guess.mode, plan.ends), window.take(plan.ended))
        from_right = ends.flip(1).cumsum(1).flip(1)
        sure = torch.where(window.pending, guess.p1, 1.0) * (ends & (from_right <= self.tail))
        columns = region.sum(1)
        return sure.sum(1) / columns.clamp(1, self.tail), columns > 0

    def arrange(
        self, canvas: Canvas, guess: Guess | None, window: Window | None, plan: Plan, /
    ) -> tuple[Canvas, Tensor | None, Plan]:
        """Shorten rows before the first step, and make them longer after the others."""
        canvas, moved, plan = self._fit(canvas, guess, window, plan)
        # Noted here and not in the next step, in which the host has waited already and would wait again.
        return canvas, moved, plan._replace(ended=torch.isin(canvas.tokens, plan.ends) & ~canvas.pending)

    def _fit(
        self, canvas: Canvas, guess: Guess | None, window: Window | None, plan: Plan
    ) -> tuple[Canvas, Tensor | None, Plan]:
        rows = canvas.rows
        if guess is None or window is None:
            limit = torch.minimum(plan.most, plan.geometry.extent(rows.text + self.initial))
            return shorten(canvas, limit, plan.geometry.extent(limit)), None, plan
        none = torch.zeros_like(plan.moved)
        if not bool((plan.most > rows.limit).any()):
            return canvas, None, plan._replace(moved=none)
        lost = torch.where(window.pending & window.take(canvas.pending), guess.confidence, torch.inf)
        worst, slot = lost.min(1, keepdim=True)
        insert = plan.insert & ~plan.grow & (plan.room > 0) & (worst.squeeze(1) < self.low)
        column = window.columns.gather(1, slot).squeeze(1)
        grow, insert, column = torch.stack([(plan.grow & canvas.pending.any(1)).long(), insert.long(), column]).cpu()
        more = torch.where(grow > 0, self.growth, (self.growth - 1) * insert)
        if not bool(more.any()):
            return canvas, None, plan._replace(moved=none)
        at = torch.where(grow > 0, rows.length, column + 1)
        canvas, moved = self.lengthen(canvas, at, more, plan)
        return canvas, moved, plan._replace(moved=more > 0)

    def lengthen(self, canvas: Canvas, at: Tensor, more: Tensor, plan: Plan) -> tuple[Canvas, Tensor]:
        """The canvas with `more` (b,) new columns before the columns `at` (b,), as far as there is room."""
        rows = canvas.rows
        gap = torch.minimum(more, plan.most - rows.limit)
        limit = torch.where(more > 0, torch.minimum(plan.most, plan.geometry.extent(rows.limit + gap)), rows.limit)
        length = plan.geometry.extent(limit)
        gap = torch.where(at == rows.length, length - rows.length, gap)
        moved = shift(canvas.tokens.shape[1], at, gap, rows.length, length)
        given = move(rows.given, moved, False)
        rows = rows._replace(limit=limit, length=length, given=given, text=text_start(given))
        tokens, pending = move(canvas.tokens, moved, plan.blank), move(canvas.pending, moved, True)
        return canvas._replace(tokens=tokens, pending=pending, rows=rows), moved


def shorten(canvas: Canvas, limit: Tensor, length: Tensor) -> Canvas:
    """The canvas with shorter rows."""
    there = torch.arange(canvas.tokens.shape[1]) < rearrange(length, "b -> b 1")
    pending = canvas.pending & to_device(there, canvas.pending.device)
    return canvas._replace(pending=pending, rows=canvas.rows._replace(limit=limit, length=length))


def shift(t: int, at: Tensor, gap: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Where each column (b, t) comes from once `gap` new ones are put before the column `at` (all (b,)) of rows that
    were `before` long and then are `after`; -1 for new ones."""
    at, gap, before, after = (rearrange(x, "b -> b 1") for x in (at, gap, before, after))
    column = torch.arange(t).expand(len(at), t)
    come = torch.where(column < at, column, column - gap)
    new = (column >= at) & ((column < at + gap) | (come >= before))
    return torch.where((gap == 0) | (column >= after), column, torch.where(new, -1, come))
