"""Where decoding stands, and what becomes of it when a row changes its request or columns move."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm.transfer import to_device
from dllm.types import Canvas, Ledger, State, Transient


class PartStates(NamedTuple):
    """The state of every part of the strategy."""

    scheduler: State
    policy: State
    cache: State
    processors: tuple[State, ...]


class DecodingState(NamedTuple):
    """The state of decoding.

    Attributes:
        canvas: The canvas.
        parts: States of the parts.
        ledger: When and how each column was decided.
        nfe: Forwards of each row so far (host).
        num_windows: Windows of each row so far (host); its random numbers depend on it.
    """

    canvas: Canvas
    parts: PartStates
    ledger: Ledger
    nfe: Int[Tensor, " b"]
    num_windows: Int[Tensor, " b"]


def renew_rows(state: Any, fresh: Any, rows: Bool[Tensor, " b"]) -> Any:
    """Replace the marked rows of a state by those of `fresh`, in every tensor whose first axis is the batch.

    A tensor that was nothing before the first step stays as it is: which rows it speaks of cannot be known.

    Args:
        state: A tensor, a (named) tuple of states, or any other value.
        fresh: The same before the first step of the requests that the rows hold now.
        rows: Rows to replace (host).
    """
    if isinstance(state, Transient):
        return None
    if isinstance(state, tuple) and fresh is not None:
        return _like(state, [renew_rows(old, new, rows) for old, new in zip(state, fresh, strict=True)])
    if not isinstance(state, Tensor) or not isinstance(fresh, Tensor):
        return fresh if state is None else state
    if not state.dim() or len(state) != len(rows) or state.shape != fresh.shape:
        return state
    return torch.where(to_device(rows, state.device).view(-1, *[1] * (state.dim() - 1)), fresh, state)


def forget_moved_columns(state: Any, fresh: Any, moved: Int[Tensor, "b t"]) -> Any:
    """Replace all that a state knows of single columns, (b, t, …), by `fresh`, in rows in which columns moved.

    Args:
        state: As in `renew_rows`.
        fresh: The same before the first step.
        moved: As in `Step` (host).
    """
    if isinstance(state, Transient):
        return None
    if isinstance(state, tuple):
        return _like(state, [forget_moved_columns(old, new, moved) for old, new in zip(state, fresh, strict=True)])
    if not isinstance(state, Tensor) or not isinstance(fresh, Tensor) or state.shape[:2] != moved.shape:
        return state
    here = to_device((moved != torch.arange(moved.shape[1])).any(1), state.device)
    return torch.where(here.view(-1, *[1] * (state.dim() - 1)), fresh, state)


def drop_transients(state: Any) -> Any:
    """Replace every `Transient` in a state by None, once the facts of the rows have changed."""
    if isinstance(state, Transient):
        return None
    return _like(state, [drop_transients(value) for value in state]) if isinstance(state, tuple) else state


def _like(state: tuple[Any, ...], values: list[Any]) -> Any:
    """Make a tuple of the same type; a named tuple takes its values one by one."""
    return type(state)(*values) if hasattr(state, "_fields") else tuple(values)
