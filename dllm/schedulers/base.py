"""What all schedulers share: from ranges of columns to a window, with the one synchronisation of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.types import Canvas, Window


class Range(NamedTuple):
    """Where each row works, all (b,) and host; see `Window` for the meaning."""

    start: Tensor
    end: Tensor
    block_start: Tensor
    block_end: Tensor
    entered: Tensor
    commit: Tensor
    forced: Tensor
    step: Tensor
    closed: Tensor


class Sight(NamedTuple):
    """What a scheduler sees of the canvas, on the host.

    pending  (b, t) bool
    head     (b,) int64  each row's first pending column, t where there is none
    held     (b,) bool   rows that stay where they are
    """

    pending: Tensor
    head: Tensor
    held: Tensor


def look(canvas: Canvas) -> Sight:
    """Copy what is pending to the host: the only point of a step at which the host waits for the device."""
    pending = canvas.pending.cpu()
    t = pending.shape[1]
    head = torch.where(pending, torch.arange(t), t).amin(1)
    return Sight(pending, head, torch.zeros_like(head, dtype=torch.bool) if canvas.held is None else canvas.held.cpu())


def open_window(canvas: Canvas, pending: Tensor, where: Range, steps: int | None) -> Window:
    """The window over the ranges `where` of a canvas whose pending columns (host) are given."""
    device = canvas.tokens.device
    t = pending.shape[1]
    k = max(1, int((where.end - where.start).max()))
    columns = rearrange(where.start, "b -> b 1") + torch.arange(k)
    valid = columns < rearrange(where.end, "b -> b 1")
    columns = torch.where(valid, columns, t)
    here = pending.gather(1, columns.clamp(max=t - 1)) & valid

    def move(x: Tensor) -> Tensor:
        return x.to(device, non_blocking=True)

    return Window(
        columns=move(columns),
        valid=move(valid),
        pending=move(here),
        slots=move(torch.nonzero(here.flatten()).flatten()),
        start=where.start,
        end=where.end,
        block_start=where.block_start,
        block_end=where.block_end,
        entered=where.entered,
        first=here[:, 0],
        commit=where.commit,
        forced=where.forced,
        step=move(where.step),
        closed=where.closed,
        steps=steps,
    )
