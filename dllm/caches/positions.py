"""What caches that choose columns by position share: a log of what each row has run and decided.

All of it is known on the host from what the scheduler copied there, so choosing columns never waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.caches.base import ForwardPlan, StoredCache
from dllm.caches.memory import CacheState, columns_between
from dllm.types import Canvas, Model, Window


class RowLog(NamedTuple):
    """The history of the rows so far, all on the host.

    Attributes:
        forwards: Forwards of the row.
        opened: Forwards of the row since it entered its block.
        written: Columns decided since the row was last refreshed.
        start: First column of the row's last window.
        end: One past the last column of that window.
        stored: One past the last column that was run since the row was last refreshed.
        undecided: Columns that were pending when the row was last run.
        changed: Columns that may hold another token than when the row was last run.
        needs_left: Columns that the model needs left of one that is predicted.
        answer: Whether the policy judges decided columns of the window too.
    """

    forwards: Int[Tensor, " b"]
    opened: Int[Tensor, " b"]
    written: Int[Tensor, " b"]
    start: Int[Tensor, " b"]
    end: Int[Tensor, " b"]
    stored: Int[Tensor, " b"]
    undecided: Bool[Tensor, "b t"]
    changed: Bool[Tensor, "b t"]
    needs_left: int = 0
    answer: bool = False


@dataclass(frozen=True)
class PositionCache(StoredCache):
    """Base class of the caches whose columns depend on what was run and decided before; they read it in a `RowLog`."""

    def init(self, canvas: Canvas, model: Model, /) -> CacheState:
        zeros = torch.zeros_like(canvas.rows.prompt)
        nothing = torch.zeros_like(canvas.rows.given)
        log = RowLog(zeros, zeros, zeros, zeros, zeros, zeros, nothing, nothing, model.needs_left)
        return super().init(canvas, model)._replace(log=log)

    def plan(self, model: Model, canvas: Canvas, window: Window, state: CacheState, /) -> ForwardPlan:
        before: RowLog = state.log
        log = _update_log(before, canvas, window)
        plan = super().plan(model, canvas, window, state._replace(log=log))
        end = plan.reach.end
        runs = end > plan.reach.start
        refreshed = plan.state.since == 1
        # A row that is not run keeps what it was last run with: its next forward has to make up for all since then.
        log = log._replace(
            forwards=log.forwards + runs,
            opened=log.opened + runs,
            written=torch.where(runs, torch.where(refreshed, 0, log.written), before.written),
            start=torch.where(runs, window.start, log.start),
            end=torch.where(runs, window.end, log.end),
            stored=torch.where(runs, torch.where(refreshed, end, torch.maximum(log.stored, end)), log.stored),
            undecided=torch.where(rearrange(runs, "b -> b 1"), log.undecided, before.undecided),
        )
        return plan._replace(state=plan.state._replace(log=log))


def _update_log(log: RowLog, canvas: Canvas, window: Window) -> RowLog:
    """Add to the log what has been decided since the rows were last run, once a window is known.

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
