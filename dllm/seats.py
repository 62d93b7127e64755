"""Who sits where: the rows of a batch, and the requests that wait for one to be finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    stopper  when the rows are finished
    """

    model: Any
    requests: Sequence[Request]
    strategy: Strategy
    proposer: Proposer
    place: Tensor
    waiting: list[int]
    width: int
    stopper: Stopper = field(init=False)

    @classmethod
    def of(cls, model: Any, requests: Sequence[Request], strategy: Strategy, batch_size: int | None) -> Seats:
        proposer = Proposer(model.head, strategy.sampling, strategy.policy.needs, model.mask_id, model.vocabulary)
        b = min(len(requests), batch_size or len(requests))
        waiting = list(range(b, len(requests)))
        return cls(model, requests, strategy, proposer, torch.arange(b), waiting, width(model, requests))

    def begin(self) -> Run:
        """All rows before their first step."""
        sitting = [self.requests[i] for i in self.place.tolist()]
        ids = stop_ids(self.model, sitting, self.strategy.stopping)
        self.stopper = Stopper.of(ids, self.strategy.stopping, self.model.tokenizer, self.model.device)
        canvas = lay_out(self.model, sitting, self.width)
        plan = self.strategy.scheduler.init(canvas, self.model)
        canvas, _, plan = arrange(self.strategy.scheduler, canvas, None, None, plan)
        zeros = torch.zeros(len(sitting), dtype=torch.int64)
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

    own  the part's own way, `renew(state, fresh, rows)`, if it keeps its rows otherwise
    """
    if own is not None:
        return own(state, fresh, rows)
    if isinstance(state, tuple):
        parts = [renew(old, new, rows) for old, new in zip(state, fresh, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if not isinstance(state, Tensor) or not isinstance(fresh, Tensor):
        return fresh if state is None else state
    if not state.dim() or len(state) != len(rows) or state.shape != fresh.shape:
        return state
    return torch.where(rows.to(state.device).view(-1, *[1] * (state.dim() - 1)), fresh, state)
