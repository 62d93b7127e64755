"""Who sits where: the rows of a batch, and the requests that wait for one to be finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.errors import RequestError
from dllm.feeds import Feed, Line
from dllm.ledger import blank_ledger
from dllm.lengths import arrange
from dllm.requests import Layout, Request, lay_out, width
from dllm.sampling import Proposer
from dllm.stopping import Stopper, stop_ids
from dllm.strategy import Strategy
from dllm.transfer import to_device
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

    feed     requests that have no row yet
    seated   the request of each row: the one it holds or, where that is finished, held last
    place    (b,) int64  host; the number of that request; -1 where a row was never taken
    ends     end ids that a row has room for
    layout   the rows before their first step
    stopper  when the rows are finished
    """

    model: Any
    feed: Feed
    strategy: Strategy
    proposer: Proposer
    seated: list[Request]
    place: Tensor
    ends: int
    layout: Layout
    stopper: Stopper = field(init=False)

    @classmethod
    def of(cls, model: Any, requests: Sequence[Request] | Feed, strategy: Strategy, batch_size: int | None) -> Seats:
        """The first rows, none where nobody waits. A feed has all of its `batch_size` rows from the beginning."""
        proposer = Proposer(model.head, strategy.sampling, strategy.policy.needs, model.mask_id, model.vocabulary)
        feed, b = (requests, batch_size or 1) if isinstance(requests, Feed) else line(model, requests, batch_size)
        first = feed.take(b)
        seated = [request for _, request in first]
        known = feed.requests if isinstance(feed, Line) else seated
        ends = max(map(len, stop_ids(model, known, strategy.stopping)), default=0)
        vacant = b - len(first) if first else 0
        place = torch.tensor([number for number, _ in first] + [-1] * vacant)
        seated += seated[:1] * vacant
        seats = cls(model, feed, strategy, proposer, seated, place, ends, Layout.of(model, seated, feed.width))
        seats.announce()
        return seats

    def announce(self) -> None:
        """Show the processors all of a list who wait, since they may refuse one, and that before any forward."""
        if not self.strategy.constrained or not isinstance(self.feed, Line):
            return
        b, requests = len(self.place), self.feed.requests
        for first in range(b, len(requests), b):
            self.proposer.init(self.lay_out(requests[first : first + b]), self.model)

    def lay_out(self, requests: Sequence[Request]) -> Canvas:
        """The canvas of some requests before their first step."""
        return lay_out(self.model, requests, self.feed.width, self.stops(requests))

    def stops(self, requests: Sequence[Request]) -> Tensor:
        """End ids (b, s) of some requests, padded with -1 (host). Raises RequestError where one has more than there is
        room for, which only a feed can bring."""
        ids = [(*own, *[-1] * (self.ends - len(own))) for own in stop_ids(self.model, requests, self.strategy.stopping)]
        if any(len(own) > self.ends for own in ids):
            raise RequestError(f"stop_ids of a request that came later: there is room for {self.ends} in this run")
        return torch.tensor(ids, dtype=torch.int64).reshape(len(ids), self.ends)

    def begin(self) -> Run:
        """All rows before their first step; those that were never taken have nothing to do."""
        stops = self.stops(self.seated)
        self.stopper = Stopper.of(stops.tolist(), self.strategy.stopping, self.model.tokenizer, self.model.device)
        canvas = self.layout.canvas(stops)
        plan = self.strategy.scheduler.init(canvas, self.model)
        canvas, _, plan = arrange(self.strategy.scheduler, canvas, None, None, plan)
        habits = self.proposer.init(canvas, self.model)
        canvas = clear(canvas, self.place < 0)
        zeros = torch.zeros_like(self.place)
        return Run(
            canvas=canvas,
            plan=plan,
            mood=self.strategy.policy.init(canvas),
            memory=self.strategy.cache.init(canvas, self.model),
            habits=habits,
            ledger=blank_ledger(canvas),
            nfe=zeros,
            draws=zeros,
        )

    def leave(self, run: Run) -> Run:
        """The run with nothing left to do in rows for which nobody waits any more."""
        gone = self.feed.gone()
        if not gone:
            return run
        return run._replace(canvas=clear(run.canvas, torch.isin(self.place, torch.tensor(list(gone)))))

    def fill(self, run: Run, window: Window | None) -> Run | None:
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
            self.layout.put(row, request)
        fresh = self.begin()
        memory = run.memory.back(new) if hasattr(run.memory, "back") else run.memory
        memory = renew(memory, fresh.memory, new, getattr(self.strategy.cache, "renew", None))
        return renew(run._replace(memory=None), fresh._replace(memory=None), new)._replace(memory=memory)


def line(model: Any, requests: Sequence[Request], batch_size: int | None) -> tuple[Line, int]:
    """A list as a feed, and the rows that it needs."""
    return Line(requests, width(model, requests)), min(len(requests), batch_size or len(requests))


def clear(canvas: Canvas, rows: Tensor) -> Canvas:
    """The canvas with nothing to do in the marked rows (b,)."""
    if not bool(rows.any()):
        return canvas
    kept = ~to_device(rows, canvas.pending.device)
    held = None if canvas.held is None else canvas.held & kept
    return canvas._replace(pending=canvas.pending & rearrange(kept, "b -> b 1"), held=held)


def renew(state: Any, fresh: Any, rows: Tensor, own: Any = None) -> Any:
    """A part's state with the marked rows (b,) as in `fresh`: every tensor whose first axis is the batch.

    What was nothing before the first step stays as it is: which rows it speaks of cannot be known.

    own  the part's own way, if it keeps its rows otherwise: `renew(state, fresh, rows, renew)`, where the last is this
         function, for what it has of other parts
    """
    if own is not None:
        return own(state, fresh, rows, renew)
    if isinstance(state, tuple) and fresh is not None:
        parts = [renew(old, new, rows) for old, new in zip(state, fresh, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if not isinstance(state, Tensor) or not isinstance(fresh, Tensor):
        return fresh if state is None else state
    if not state.dim() or len(state) != len(rows) or state.shape != fresh.shape:
        return state
    return torch.where(to_device(rows, state.device).view(-1, *[1] * (state.dim() - 1)), fresh, state)
