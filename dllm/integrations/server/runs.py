"""A run: one stream of steps whose rows are given to tickets of one strategy as they come, and freed as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from dllm.engine.loop import steps
from dllm.engine.stop import Stopper, resolve_stop_ids
from dllm.integrations.server.pending_answers import AnswerUpdate, Ticket
from dllm.requests import Request
from dllm.streaming import Delta, Deltas
from dllm.types import Step

ENDLESS = 2**40
"""More requests than any run decodes."""
NOBODY = -1
"""Value of `Step.place` for a row that was never given to a request."""

Admit = Callable[[tuple[str, int], int], list[Ticket]]
"""Function that takes the key of a run and a number, and returns so many tickets at most that get a row now."""


class _LiveDeltas(Deltas):
    """Deltas of requests that come and go; `forget` drops the state of requests that have gone.

    Attributes:
        live_requests: Requests by their number, in place of the complete list that `Deltas` is made with.
    """

    def __init__(self, model: Any, ticket: Ticket) -> None:
        super().__init__(model, [], ticket.strategy)
        stopping = ticket.strategy.stopping
        one = Stopper.of(
            resolve_stop_ids(model, [Request((0,))], stopping), stopping, model.tokenizer, torch.device("cpu")
        )
        # All requests of a run have the same end tokens, so one row of ids is viewed as a row for each request that
        # will ever come; `expand` copies nothing.
        self.collector.stopper = replace(one, ids=one.ids.expand(ENDLESS, -1))
        self.live_requests: dict[int, Request] = {}
        # A dictionary by number serves where a list by place is declared: both are only indexed.
        self.requests = self.collector.requests = self.live_requests  # type: ignore[assignment]
        self.ignore(NOBODY)

    def ignore(self, number: int) -> None:
        """Make no result of a request, by entering it as one whose result is known."""
        self.collector.found[number] = None  # type: ignore[assignment]

    def forget(self, numbers: Iterable[int]) -> None:
        """Drop everything that is kept of some requests."""
        tables: tuple[dict[int, Any], ...] = (
            self.live_requests, self.collector.found, self.texts, self.told, self.bound,
        )  # fmt: skip
        for number in numbers:
            for table in tables:
                table.pop(number, None)

    def finish_remaining(self) -> list[Delta]:
        """Return the last deltas, when the stream of steps has ended."""
        last = self.collector.last
        rows = [] if last is None else [row for row in range(len(last.place)) if self.collector.open(row)]
        return [self.last(number) for number in self.collector.finish(rows)]


class ServerRun:
    """The stream of steps for tickets of one key. It is the `RequestQueue` of its own stream.

    Args:
        model: The model that decodes.
        ticket: A ticket of the key; it is not taken, but waits like the others.
        admit: Function that returns the tickets that get a row.
        rows: Rows decoded at a time.

    Attributes:
        key: What all tickets of the run have in common.
        width: Columns of the canvas.
        active: Tickets that have a row, by number.
        next_number: Number of the next ticket.
    """

    def __init__(self, model: Any, ticket: Ticket, admit: Admit, rows: int) -> None:
        self.key, self.width = ticket.key, ticket.width
        self.admit = admit
        self.active: dict[int, Ticket] = {}
        self.next_number = 0
        self.deltas = _LiveDeltas(model, ticket)
        self.stream: Iterator[Step] = steps(model, self, ticket.strategy, batch_size=rows)

    def take(self, most: int) -> list[tuple[int, Request]]:
        """Return the requests that get a row now, with their numbers (see `RequestQueue.take`)."""
        requests = []
        for ticket in self.admit(self.key, most):
            number, self.next_number = self.next_number, self.next_number + 1
            self.active[number], self.deltas.live_requests[number] = ticket, ticket.request
            requests.append((number, ticket.request))
        return requests

    def gone(self) -> list[int]:
        """Return the numbers of tickets that were abandoned, whose rows are free from now on."""
        abandoned = [number for number, ticket in self.active.items() if ticket.abandoned]
        for number in abandoned:
            self.deltas.ignore(number)
            del self.active[number]
        return abandoned

    def step(self) -> bool:
        """Make a step and deliver what it made final; return False when the run has ended."""
        self.deltas.drafts = any(ticket.drafts for ticket in self.active.values())
        step = next(self.stream, None)
        for delta in self.deltas.finish_remaining() if step is None else self.deltas.add(step):
            self._deliver(delta)
        if step is not None:
            # A finished request is kept while it is still in a row: the collector looks it up until the row is given
            # to another, and would make its result a second time.
            kept = {*step.place.tolist(), *self.active, NOBODY}
            self.deltas.forget([number for number in self.deltas.collector.found if number not in kept])
        return step is not None

    def _deliver(self, delta: Delta) -> None:
        """Pass a delta on to its ticket, if a caller still waits for it."""
        ticket = self.active.get(delta.request)
        if ticket is None or ticket.abandoned:
            return
        if delta.done:
            del self.active[delta.request]
        try:
            ticket.deliver(AnswerUpdate(delta.text, delta.draft if ticket.drafts else None, delta.result))
        except ArithmeticError as error:
            # The second decoding contradicts text that the caller has, so the answer fails. Its row is decoded to the
            # end without a reader, since `gone` reports active tickets only.
            self.active.pop(delta.request, None)
            self.deltas.ignore(delta.request)
            ticket.abandoned = True
            ticket.on_update(AnswerUpdate(error=error))
