"""Who sits where: the rows of a batch, and the requests that wait for one to be finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.engine.propose import Proposer
from dllm.engine.queue import ListQueue, RequestQueue
from dllm.engine.record import blank_ledger
from dllm.engine.resize import resize_canvas
from dllm.engine.stop import Stopper, resolve_stop_ids
from dllm.errors import RequestError
from dllm.requests import Request, count_canvas_columns, make_canvas
from dllm.strategy import Strategy
from dllm.types import Canvas, Ledger, State, Window


class DecodingState(NamedTuple):
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
class Batch:
    """The rows of a batch and the queue in front of it.

    feed     requests that have no row yet
    seated   the request of each row: the one it holds or, where that is finished, held last
    place    (b,) int64  host; the number of that request; -1 where a row was never taken
    ends     end ids that a row has room for
    stopper  when the rows are finished
    """

    model: Any
    feed: RequestQueue
    strategy: Strategy
    proposer: Proposer
    seated: list[Request]
    place: Tensor
    ends: int
    stopper: Stopper = field(init=False)

    @classmethod
    def of(
        cls, model: Any, requests: Sequence[Request] | RequestQueue, strategy: Strategy, batch_size: int | None
    ) -> Batch:
        """The first rows, none where nobody waits. A feed has all of its `batch_size` rows from the beginning."""
        proposer = Proposer(model.head, strategy.sampling, strategy.policy.needs, model.mask_id, model.vocabulary)
        feed, b = (
            (requests, batch_size or 1)
            if isinstance(requests, RequestQueue)
            else _queue_of_list(model, requests, batch_size)
        )
        first = feed.take(b)
        seated = [request for _, request in first]
        known = feed.requests if isinstance(feed, ListQueue) else seated
        ends = max(map(len, resolve_stop_ids(model, known, strategy.stopping)), default=0)
        vacant = b - len(first) if first else 0
        place = torch.tensor([number for number, _ in first] + [-1] * vacant)
        seats = cls(model, feed, strategy, proposer, seated + seated[:1] * vacant, place, ends)
        seats.announce()
        return seats

    def announce(self) -> None:
        """Show the processors all of a list who wait, since they may refuse one, and that before any forward."""
        if not self.strategy.constrained or not isinstance(self.feed, ListQueue):
            return
        b, requests = len(self.place), self.feed.requests
        for first in range(b, len(requests), b):
            self.proposer.init(self.lay_out(requests[first : first + b]), self.model)

    def lay_out(self, requests: Sequence[Request]) -> Canvas:
        """The canvas of some requests before their first step."""
        return make_canvas(self.model, requests, self.feed.width, self.stops(requests).ids.cpu())

    def stops(self, requests: Sequence[Request]) -> Stopper:
        """When the rows of some requests are finished. Raises RequestError where one has more ends than there is room
        for, which only a feed can bring."""
        ids = [
            (*own, *[-1] * (self.ends - len(own)))
            for own in resolve_stop_ids(self.model, requests, self.strategy.stopping)
        ]
        if any(len(own) > self.ends for own in ids):
            raise RequestError(f"stop_ids of a request that came later: there is room for {self.ends} in this run")
        return Stopper.of(ids, self.strategy.stopping, self.model.tokenizer, self.model.device)

    def begin(self) -> DecodingState:
        """All rows before their first step; those that were never taken have nothing to do."""
        self.stopper = self.stops(self.seated)
        canvas = self.lay_out(self.seated)
        plan = self.strategy.scheduler.init(canvas, self.model)
        canvas, _, plan = resize_canvas(self.strategy.scheduler, canvas, None, None, plan)
        habits = self.proposer.init(canvas, self.model)
        canvas = _clear_rows(canvas, self.place < 0)
        zeros = torch.zeros_like(self.place)
        return DecodingState(
            canvas=canvas,
            plan=plan,
            mood=self.strategy.policy.init(canvas),
            memory=self.strategy.cache.init(canvas, self.model),
            habits=habits,
            ledger=blank_ledger(canvas),
            nfe=zeros,
            draws=zeros,
        )

    def leave(self, run: DecodingState) -> DecodingState:
        """The run with nothing left to do in rows for which nobody waits any more."""
        gone = self.feed.gone()
        if not gone:
            return run
        return run._replace(canvas=_clear_rows(run.canvas, torch.isin(self.place, torch.tensor(list(gone)))))

    def fill(self, run: DecodingState, window: Window | None) -> DecodingState | None:
        """Waiting requests in the rows that are finished, as if decoding had begun with them; the others as they were.
        None if nobody gets a row.

        Where more rows are finished than wait, the last ones stay empty.
        """
        closed = [True] * len(self.place) if window is None else window.closed.tolist()
        rows = [row for row, done in enumerate(closed) if done]
        coming = self.feed.take(len(rows)) if rows else ()
        if not coming:
            return None
        new, self.place = torch.zeros_like(self.place, dtype=torch.bool), self.place.clone()
        for row, (number, request) in zip(rows, coming, strict=False):
            self.place[row], self.seated[row], new[row] = number, request, True
        fresh = self.begin()
        memory = run.memory.back(new) if hasattr(run.memory, "back") else run.memory
        memory = _renew_rows(memory, fresh.memory, new, getattr(self.strategy.cache, "renew", None))
        return _renew_rows(run._replace(memory=None), fresh._replace(memory=None), new)._replace(memory=memory)


def _queue_of_list(model: Any, requests: Sequence[Request], batch_size: int | None) -> tuple[ListQueue, int]:
    """A list as a feed, and the rows that it needs."""
    return ListQueue(requests, count_canvas_columns(model, requests)), min(len(requests), batch_size or len(requests))


def _clear_rows(canvas: Canvas, rows: Tensor) -> Canvas:
    """The canvas with nothing to do in the marked rows (b,)."""
    if not bool(rows.any()):
        return canvas
    kept = ~rows.to(canvas.pending.device)
    held = None if canvas.held is None else canvas.held & kept
    return canvas._replace(pending=canvas.pending & rearrange(kept, "b -> b 1"), held=held)


def _renew_rows(state: Any, fresh: Any, rows: Tensor, own: Any = None) -> Any:
    """A part's state with the marked rows (b,) as in `fresh`: every tensor whose first axis is the batch.

    What was nothing before the first step stays as it is: which rows it speaks of cannot be known.

    own  the part's own way, if it keeps its rows otherwise: `renew(state, fresh, rows, renew)`, where the last is this
         function, for what it has of other parts
    """
    if own is not None:
        return own(state, fresh, rows, _renew_rows)
    if isinstance(state, tuple) and fresh is not None:
        parts = [_renew_rows(old, new, rows) for old, new in zip(state, fresh, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if not isinstance(state, Tensor) or not isinstance(fresh, Tensor):
        return fresh if state is None else state
    if not state.dim() or len(state) != len(rows) or state.shape != fresh.shape:
        return state
    return torch.where(rows.to(state.device).view(-1, *[1] * (state.dim() - 1)), fresh, state)
