"""Rows that change their length while they are written: what the loop does when a scheduler moves columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dllm.transfer import to_device
from dllm.types import Canvas, Guess, Scheduler, State, Window


def arrange(
    scheduler: Scheduler, canvas: Canvas, guess: Guess | None, window: Window | None, plan: State
) -> tuple[Canvas, Tensor | None, State]:
    """The scheduler's last word on the canvas, if it has one; see `Scheduler`."""
    found: Any = getattr(scheduler, "arrange", None)
    return (canvas, None, plan) if found is None else found(canvas, guess, window, plan)


def move(plane: Tensor, moved: Tensor, blank: Any = 0) -> Tensor:
    """A plane (b, t) whose columns come from `moved` (b, t, host); `blank` where a column is new."""
    moved = to_device(moved, plane.device)
    return torch.where(moved >= 0, plane.gather(1, moved.clamp(min=0)), blank)


def relocate(run: Any, moved: Tensor | None, policy: Any, proposer: Any, model: Any) -> Any:
    """Where decoding stands once columns have moved: the ledger follows, the parts forget what they knew of columns."""
    if moved is None:
        return run
    mood = forget(run.mood, policy.init(run.canvas), moved)
    habits = forget(run.habits, proposer.init(run.canvas, model), moved)
    memory = run.memory.forget(moved) if hasattr(run.memory, "forget") else run.memory
    ledger = type(run.ledger)(*(move(x, moved) for x in run.ledger))
    return run._replace(ledger=ledger, mood=mood, memory=memory, habits=habits)


def forget(state: Any, fresh: Any, moved: Tensor) -> Any:
    """What a part remembers, with all that it knows of single columns (b, t, …) forgotten in rows that moved."""
    if isinstance(state, tuple):
        parts = [forget(old, new, moved) for old, new in zip(state, fresh, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if not isinstance(state, Tensor) or not isinstance(fresh, Tensor) or state.shape[:2] != moved.shape:
        return state
    here = to_device((moved != torch.arange(moved.shape[1])).any(1), state.device)
    return torch.where(here.view(-1, *[1] * (state.dim() - 1)), fresh, state)
