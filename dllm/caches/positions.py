"""What caches that choose columns by position share: a log of what each row has run and decided.

All of it is known on the host from what the scheduler copied there, so choosing columns never waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.caches.base import ForwardPlan, StoredCache
from dllm.caches.memory import CacheState
from dllm.types import Canvas, Model, Window


class RowLog(NamedTuple):
    """What the rows did so far, all host.

    forwards    (b,) int64   forwards of the row
    opened      (b,) int64   forwards of the row since it entered its block
    written     (b,) int64   columns decided since the row was last refreshed
    start, end  (b,) int64   the row's last window
    stored      (b,) int64   one past the last column that was run since the row was last refreshed
    undecided   (b, t) bool  what was pending when the row was last run
    changed     (b, t) bool  what may hold another token than when the row was last run
    needs_left  columns that the model needs left of one that is predicted
    answer      the policy judges decided columns of the window too
    """

    forwards: Tensor
    opened: Tensor
    written: Tensor
    start: Tensor
    end: Tensor
    stored: Tensor
    undecided: Tensor
    changed: Tensor
    needs_left: int = 0
    answer: bool = False


@dataclass(frozen=True)
class PositionCache(StoredCache):
    """Base of the caches whose columns depend on what was run and decided before; they read it in a `Log`."""

    def init(self, canvas: Canvas, model: Model, /) -> CacheState:
        zeros = torch.zeros_like(canvas.rows.prompt)
        nothing = torch.zeros_like(canvas.rows.given)
        log = RowLog(zeros, zeros, zeros, zeros, zeros, zeros, nothing, nothing, model.needs_left)
        return super().init(canvas, model)._replace(log=log)

    def plan(self, model: Model, canvas: Canvas, window: Window, memory: CacheState, /) -> ForwardPlan:
        before: RowLog = memory.log
        log = _update_log(before, canvas, window)
        course = super().plan(model, canvas, window, memory._replace(log=log))
        end = course.reach.end
        runs = end > course.reach.start
        refreshed = course.memory.since == 1
        log = log._replace(
            forwards=log.forwards + runs,
            opened=log.opened + runs,
            written=torch.where(runs, torch.where(refreshed, 0, log.written), before.written),
            start=torch.where(runs, window.start, log.start),
            end=torch.where(runs, window.end, log.end),
            stored=torch.where(runs, torch.where(refreshed, end, torch.maximum(log.stored, end)), log.stored),
            undecided=torch.where(rearrange(runs, "b -> b 1"), log.undecided, before.undecided),
        )
        return course._replace(memory=course.memory._replace(log=log))


def _update_log(log: RowLog, canvas: Canvas, window: Window) -> RowLog:
    """The log once a window is known: what has been decided since the row was last run.

    Where a policy edits, everything in the row's last window may hold another token.
    """
    undecided = canvas.pending.cpu() if window.undecided is None else window.undecided
    decided = log.undecided & ~undecided
    changed = decided | (undecided & ~log.undecided)
    if window.answer is not None:
        changed = changed | columns_between(log.start, log.end, undecided.shape[1])
    return log._replace(
        opened=torch.where(window.entered, 0, log.opened),
        written=log.written + decided.sum(1),
        undecided=undecided,
        changed=changed,
        answer=window.answer is not None,
    )


def columns_between(start: Tensor, end: Tensor, t: int) -> Tensor:
    """Columns (b, t) from start to end (b,) of each row (host)."""
    column = torch.arange(t)
    return (column >= rearrange(start, "b -> b 1")) & (column < rearrange(end, "b -> b 1"))
