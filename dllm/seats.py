"""Who sits where: the rows of a batch, and the requests that wait for one to be finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm.ledger import blank_ledger
from dllm.lengths import arrange
from dllm.requests import Request, lay_out, width
from dllm.sampling import Proposer
from dllm.stopping import Stopper, stop_ids
from dllm.strategy import Strategy
from dllm.types import Canvas, Ledger, State, Window


class Run(NamedTuple):
    """Where decoding stands: the canvas, what every part remembers, and what is counted.

    nfe    (b,) int64  host; forwards of each row so far
    draws  (b,) int64  host; windows of each row so far
    """

    canvas: Canvas
    plan: State
    mood: State
    memory: State
    habits: tuple[State, ...]
    ledger: Ledger
    nfe: Tensor
    draws: Tensor


@dataclass
class Seats:
    """The rows of a batch and the queue in front of it.

    place    (b,) int64  host; the request that each row holds
    waiting  requests that have no row yet, in order
    width    columns of the canvas: enough for every request
    everyone when each request is finished
    stopper  when the rows are finished
    """

    model: Any
    requests: Sequence[Request]
    strategy: Strategy
    proposer: Proposer
    place: Tensor
    waiting: list[int]
    width: int
    everyone: Stopper
    stopper: Stopper = field(init=False)

    @classmethod
    def of(cls, model: Any, requests: Sequence[Request], strategy: Strategy, batch_size: int | None) -> Seats:
        proposer = Proposer(model.head, strategy.sampling, strategy.policy.needs, model.mask_id, model.vocabulary)
        b = min(len(requests), batch_size or len(requests))
        waiting = list(range(b, len(requests)))
        ids = stop_ids(model, requests, strategy.stopping)
        everyone = Stopper.of(ids, strategy.stopping, model.tokenizer, model.device)
        seats = cls(model, requests, strategy, proposer, torch.arange(b), waiting, width(model, requests), everyone)
        seats.announce()
        return seats

    def announce(self) -> None:
        """Show the processors all who wait, since they may refuse one, and that before any forward."""
        b = len(self.place)
        for first in range(0, len(self.waiting), b) if self.strategy.constrained else ():
            self.proposer.init(self.lay_out(self.waiting[first : first + b]), self.model)

    def lay_out(self, places: Sequence[int]) -> Canvas:
        """The canvas of some requests before their first step."""
        stops = self.everyone.ids.cpu()[list(places)]
        return lay_out(self.model, [self.requests[i] for i in places], self.width, stops)

    def begin(self) -> Run:
        """All rows before their first step."""
        self.stopper = replace(self.everyone, ids=self.everyone.ids[self.place.to(self.everyone.ids.device)])
        canvas = self.lay_out(self.place.tolist())
        plan = self.strategy.scheduler.init(canvas, self.model)
        canvas, _, plan = arrange(self.strategy.scheduler, canvas, None, None, plan)
        zeros = torch.zeros_like(self.place)
        return Run(
            canvas=canvas,
            plan=plan,
            mood=self.strategy.policy.init(canvas),
            memory=self.strategy.cache.init(canvas, self.model),
            habits=self.proposer.init(canvas, self.model),
            ledger=blank_ledger(canvas),
            nfe=zeros,
            draws=zeros,
        )

    def free(self, window: Window | None) -> bool:
        """Whether a row is finished."""
        return window is None or bool(window.closed.any())

    def fill(self, run: Run, window: Window | None) -> Run:
        """Waiting requests in the rows that are finished, as if decoding had begun with them; the others as they were.

        Where more rows are finished than wait, the last ones stay empty.
        """
        closed = torch.ones_like(self.place, dtype=torch.bool) if window is None else window.closed
        rows = closed.nonzero().flatten()[: len(self.waiting)]
        self.place = self.place.index_copy(0, rows, torch.tensor(self.waiting[: len(rows)]))
        self.waiting = self.waiting[len(rows) :]
        fresh = self.begin()
        new = torch.zeros_like(closed).index_fill(0, rows, True)
        memory = renew(run.memory, fresh.memory, new, getattr(self.strategy.cache, "renew", None))
        return renew(run._replace(memory=None), fresh._replace(memory=None), new)._replace(memory=memory)


def renew(state: Any, fresh: Any, rows: Tensor, own: Any = None) -> Any:
    """A part's state with the marked rows (b,) as in `fresh`: every tensor whose first axis is the batch.

    own  the part's own way, if it keeps its rows otherwise: `renew(state, fresh, rows, renew)`, where the last is this
         function, for what it has of other parts
    """
    if own is not None:
        return own(state, fresh, rows, renew)
    if isinstance(state, tuple):
        parts = [renew(old, new, rows) for old, new in zip(state, fresh, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if not isinstance(state, Tensor) or not isinstance(fresh, Tensor):
        return fresh if state is None else state
    if not state.dim() or len(state) != len(rows) or state.shape != fresh.shape:
        return state
    return torch.where(rows.to(state.device).view(-1, *[1] * (state.dim() - 1)), fresh, state)
