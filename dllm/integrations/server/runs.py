"""A run: one stream of steps whose rows are taken by whoever waits for that strategy, and left by whoever is done."""

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
"""More requests than any run sees."""
NOBODY = -1
"""What `Step.place` says of a row that was never taken."""

Admit = Callable[[tuple[str, int], int], list[Ticket]]


class _LiveDeltas(Deltas):
    """Deltas of requests that come and go: what is known of one is forgotten some time after its row is another's."""

    def __init__(self, model: Any, ticket: Ticket) -> None:
        super().__init__(model, [], ticket.strategy)
        stopping = ticket.strategy.stopping
        one = Stopper.of(
            resolve_stop_ids(model, [Request((0,))], stopping), stopping, model.tokenizer, torch.device("cpu")
        )
        self.collector.stopper = replace(one, ids=one.ids.expand(ENDLESS, -1))  # all requests have the same end tokens
        self.here: dict[int, Request] = {}
        self.requests = self.collector.requests = self.here  # type: ignore[assignment]
        self.ignore(NOBODY)

    def ignore(self, number: int) -> None:
        """Nothing of this request is to be told any more."""
        self.collector.found[number] = None  # type: ignore[assignment]

    def forget(self, numbers: Iterable[int]) -> None:
        known: tuple[dict[int, Any], ...] = (self.here, self.collector.found, self.texts, self.told, self.bound)
        for number in numbers:
            for table in known:
                table.pop(number, None)

    def rest(self) -> list[Delta]:
        """The last deltas, when the stream of steps has ended."""
        last = self.collector.last
        rows = [] if last is None else [row for row in range(len(last.place)) if self.collector.open(row)]
        return [self.last(number) for number in self.collector.finish(rows)]


class ServerRun:
    """The stream of steps for one kind of ticket, as a `Feed` that takes them from the hall where they wait.

    admit  tickets of a kind that get a row now, so many at most
    rows   decoded at a time

    seated  who has a row, by number
    """

    def __init__(self, model: Any, ticket: Ticket, admit: Admit, rows: int) -> None:
        self.key, self.width = ticket.key, ticket.width
        self.admit = admit
        self.seated: dict[int, Ticket] = {}
        self.count = 0
        self.deltas = _LiveDeltas(model, ticket)
        self.stream: Iterator[Step] = steps(model, self, ticket.strategy, batch_size=rows)

    def take(self, most: int) -> list[tuple[int, Request]]:
        coming = []
        for ticket in self.admit(self.key, most):
            number, self.count = self.count, self.count + 1
            self.seated[number], self.deltas.here[number] = ticket, ticket.request
            coming.append((number, ticket.request))
        return coming

    def gone(self) -> list[int]:
        found = [number for number, ticket in self.seated.items() if ticket.left]
        for number in found:
            self.deltas.ignore(number)
            del self.seated[number]
        return found

    def step(self) -> bool:
        """Take a step and tell what it made final; False when the run has ended."""
        self.deltas.drafts = any(ticket.drafts for ticket in self.seated.values())
        step = next(self.stream, None)
        told = self.deltas.rest() if step is None else self.deltas.add(step)
        for delta in told:
            self.tell(delta)
        if step is not None:
            stays = {*step.place.tolist(), *self.seated, NOBODY}
            self.deltas.forget([number for number in self.deltas.collector.found if number not in stays])
        return step is not None

    def tell(self, delta: Delta) -> None:
        ticket = self.seated.get(delta.request)
        if ticket is None or ticket.left:
            return
        if delta.done:
            del self.seated[delta.request]
        try:
            ticket.say(AnswerUpdate(delta.text, delta.draft if ticket.drafts else None, delta.result))
        except ArithmeticError as error:
            self.seated.pop(delta.request, None)
            self.deltas.ignore(delta.request)
            ticket.left = True
            ticket.tell(AnswerUpdate(error=error))
