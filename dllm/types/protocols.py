"""What a part is: the methods that the loop calls on policies, schedulers, caches, processors and models."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dllm.types.attention import Geometry, Query, Store
from dllm.types.canvas import Canvas, Guess, Seen, Signal, Verdict, Where, Window

State = Any
"""What a part remembers between steps: any value, carried by the loop and read only by the part that made it."""


class Model(Protocol):
    """A model family as the loop sees it. Only here is it known how logits and columns are related.

    A model may also have `apart` (int): how many columns cost about as much as one more forward. Where more padding
    than that is saved, rows with much to run go through the model apart from those with little.
    """

    geometry: Geometry
    needs_left: int
    """1 if the output at column i-1 predicts column i (token shift), else 0."""
    mask_id: int | None
    stop_ids: tuple[int, ...]
    max_columns: int
    """Longest canvas that the positions allow."""

    @property
    def device(self) -> torch.device: ...

    def store(self, columns: int) -> Store:
        """An empty store for rows of up to `columns` columns."""
        ...

    def forward(self, query: Query, store: Any | None) -> Tensor:
        """Hidden states (r, q, d); keys and values go into `store` and are read from it, unless it is None."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, v) of hidden states (n, d); they are the loop's to overwrite."""
        ...


class Policy(Protocol):
    """Decides *which* positions to commit.

    A policy may also have `paced = True` (it follows a scheduler's `steps`), or `edits = True` with
    `bound(columns) -> steps` (both (b,)): it may replace and revoke what is decided, for at most so many steps of a
    range of so many columns; afterwards the loop honours only what it accepts among the pending slots.
    """

    @property
    def needs(self) -> Signal: ...

    def init(self, canvas: Canvas, /) -> State: ...

    def step(self, guess: Guess, window: Window, state: State, /) -> tuple[Verdict, State]: ...


class Scheduler(Protocol):
    """Decides *where* to work, and how fast.

    Where every row stays in its range, a window may have the very tensors `start`, `end`, `block_start`, `block_end`
    and `closed` of the step before: a cache then need not find out anew what to run. So make new ones where one of them
    changes, and write into none.

    A scheduler may also have
    `refine(guess, window, state) -> (window, state)`, called before the policy: a window whose `pending` and `groups`
    say what the policy may commit of what was just predicted; and
    `arrange(canvas, guess, window, state) -> (canvas, moved, state)`, called before the first step (with no guess and
    no window) and after every step: a canvas whose rows have other lengths. `moved` is None or (b, t) int64, for every
    column the one it was before, -1 where it is new.
    """

    def init(self, canvas: Canvas, model: Model, /) -> State: ...

    def step(self, canvas: Canvas, state: State, /) -> tuple[Window | None, State]:
        """The next window, or None when no row has anything left to decide."""
        ...


class Cache(Protocol):
    """Decides *what to recompute*.

    A cache may also have `observe(guess, window, commit, score, state) -> state`, called when a step has been decided;
    `score` (b, k) is the policy's order of preference.
    """

    def init(self, canvas: Canvas, model: Model, /) -> State: ...

    def step(self, model: Model, canvas: Canvas, window: Window, state: State, /) -> tuple[Seen, State]: ...


@runtime_checkable
class Processor(Protocol):
    """Changes logits before candidates are chosen, and may remember what it saw.

    A processor may also have `settle(canvas, window, guess, commit, score, state) -> commit`: which of the slots that a
    policy commits may be committed together. It must leave at least one of a row's. Such a processor is a constraint:
    `Strategy` refuses parts under which what it promised would not last.
    """

    def init(self, canvas: Canvas, model: Any, /) -> State:
        """What is remembered at first: values by row, (b, …). Raises `RequestError` for rows it cannot serve."""
        ...

    def step(self, logits: Tensor, where: Where, canvas: Canvas, state: State, /) -> tuple[Tensor, State]:
        """Logits (n, v) float32 of the slots `where`, and the state with what they show; a step may come in parts.

        The logits that are returned are overwritten afterwards, so do not keep them.
        """
        ...
