"""A run: one stream of steps whose rows are given to tickets of one strategy as they come, and freed as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dllm.engine.loop import steps
from dllm.integrations.server.pending_answers import AnswerUpdate, Ticket
from dllm.requests import Request
from dllm.streaming import Delta, Deltas
from dllm.types import Step

Admit = Callable[[tuple[str, int], int], list[Ticket]]
"""Function that takes the key of a run and a number, and returns so many tickets at most that get a row now."""


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
        self.deltas = Deltas(model, [], ticket.strategy)
        self.stream: Iterator[Step] = steps(model, self, ticket.strategy, batch_size=rows)

    def take(self, most: int) -> list[tuple[int, Request]]:
        """Return the requests that get a row now, with their numbers (see `RequestQueue.take`)."""
        requests = []
        for ticket in self.admit(self.key, most):
            number, self.next_number = self.next_number, self.next_number + 1
            self.active[number] = ticket
            self.deltas.open(number, ticket.request)
            requests.append((number, ticket.request))
        return requests

    def gone(self) -> list[int]:
        """Return the numbers of tickets that were abandoned, whose rows are free from now on."""
        abandoned = [number for number, ticket in self.active.items() if ticket.abandoned]
        for number in abandoned:
            self.deltas.close(number)
            del self.active[number]
        return abandoned

    def step(self) -> bool:
        """Make a step and deliver what it made final; return False when the run has ended."""
        self.deltas.drafts = any(ticket.drafts for ticket in self.active.values())
        step = next(self.stream, None)
        for delta in self.deltas.finish() if step is None else self.deltas.add(step):
            self._deliver(delta)
        return step is not None

    def _deliver(self, delta: Delta) -> None:
        """Pass a delta on to its ticket, if a caller still waits for it."""
        ticket = self.active.get(delta.request)
        if ticket is None or ticket.abandoned:
            return
        if delta.done:
            self.deltas.close(delta.request)
            del self.active[delta.request]
        try:
            ticket.deliver(AnswerUpdate(delta.text, delta.draft if ticket.drafts else None, delta.result))
        except ArithmeticError as error:
            # The second decoding contradicts text that the caller has, so the answer fails. Its row is decoded to the
            # end without a reader, since `gone` reports active tickets only.
            self.active.pop(delta.request, None)
            self.deltas.close(delta.request)
            ticket.abandoned = True
            ticket.on_update(AnswerUpdate(error=error))
