"""From a stream of steps to whole results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dllm import metrics
from dllm.engine.stop import AnswerEnd
from dllm.requests import Request
from dllm.strategy import Strategy
from dllm.types import Ledger, Step


@dataclass(frozen=True)
class Result:
    """The answer to one request, and its cost. Words and units are those of `dllm.metrics`.

    Attributes:
        prompt_ids: Tokens that were given.
        output_ids: New tokens in order of their columns, up to and with the first end token; else exactly as many as
            were asked for.
        text: The new tokens as text, without what follows a stop string; with holes the whole text, filled. None
            without a tokenizer.
        nfe: Forwards of this row.
        queries: Columns run through the model for this row.
        parallel: Generated tokens that were committed two or more at once.
        certified: Those of them that are certified.
        seconds: Wall time from the row's first step until it was finished.
        stopped: Whether an end token or stop string ended it, rather than its length.
        when: For each output token the row's forward that decided it, counted from 1.
        prefill: Part of the seconds until the row's first step was done. None where that was not measured.
    """

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    text: str | None
    nfe: int
    queries: int
    parallel: int
    certified: int
    seconds: float
    stopped: bool
    when: tuple[int, ...] = ()
    prefill: float | None = field(default=None, compare=False)

    @property
    def tokens_per_forward(self) -> float:
        return metrics.tokens_per_forward(len(self.output_ids), self.nfe)

    @property
    def tokens_per_second(self) -> float:
        return metrics.tokens_per_second(len(self.output_ids), self.seconds)

    @property
    def prefilled(self) -> int:
        """Generated tokens that the row's first step decided."""
        return self.when.count(1)

    @property
    def tokens_per_second_without_prefill(self) -> float | None:
        if self.prefill is None:
            return None
        return metrics.tokens_per_second(len(self.output_ids) - self.prefilled, self.seconds - self.prefill)

    @property
    def certified_share(self) -> float | None:
        return metrics.certified_share(self.certified, self.parallel)


class Collector:
    """Gathers results from a stream of steps.

        collector = Collector(model, requests, strategy)
        for step in steps(model, requests, strategy):
            collector.add(step)
        results = collector.results()

    Requests may also come while others are decoded: `open` takes them by the number that `Step.place` calls them, and
    `close` forgets them.

    Args:
        model: The model.
        requests: Requests known from the beginning, numbered from 0.
        strategy: The strategy that decodes them.

    Attributes:
        requests: Requests by number.
        ends: Where the answer to each request ends, by number.
        found: Results so far, by number.
        last: The last step.
    """

    def __init__(self, model: Any, requests: Sequence[Request], strategy: Strategy) -> None:
        self.model, self.stopping = model, strategy.stopping
        self.requests: dict[int, Request] = {}
        self.ends: dict[int, AnswerEnd] = {}
        self.found: dict[int, Result] = {}
        self.last: Step | None = None
        for number, request in enumerate(requests):
            self.open(number, request)
        self._clock = time.perf_counter()

    def open(self, number: int, request: Request) -> None:
        """Expect the result of a request."""
        self.requests[number] = request
        self.ends[number] = AnswerEnd.of(self.model, request, self.stopping)

    def close(self, number: int) -> None:
        """Forget a request and its result, whether it is known or not."""
        for table in (self.requests, self.ends, self.found):
            table.pop(number, None)

    def add(self, step: Step) -> list[int]:
        """Take note of a step.

        Returns:
            Numbers of the requests whose result is known by now and was not before.
        """
        if step.canvas.tokens.is_cuda:  # a step is handed over while the device still works on it
            torch.cuda.synchronize(step.canvas.tokens.device)
        now = time.perf_counter()
        if self.last is None:
            self._begun = torch.full_like(step.nfe, self._clock, dtype=torch.float64)
            self._ended, self._queries = self._begun.clone(), torch.zeros_like(step.queries)
            self._entered = self._begun.clone()
            left = changed = torch.zeros_like(step.window.closed)
        else:
            changed = step.place != self.last.place
            left = changed | step.window.closed
        ready = self._finish(left.nonzero().flatten().tolist())
        self._begun = torch.where(changed, self._clock, self._begun)
        self._queries = torch.where(changed, 0, self._queries) + step.queries
        busy = (step.window.end > step.window.start) | step.window.commit
        self._ended = torch.where(busy, now, self._ended)
        self._entered = torch.where(busy & (step.nfe == 1), now, self._entered)
        self.last, self._clock = step, now
        return ready

    def finish_rows(self, rows: Bool[Tensor, " b"] | None = None) -> list[int]:
        """Make results of the requests in some rows, or in all, as the last step left them.

        Returns:
            Numbers of the requests whose result was not known before.
        """
        if self.last is None:
            return []
        return self._finish(range(len(self.last.place)) if rows is None else rows.nonzero().flatten().tolist())

    def results(self) -> list[Result]:
        """Return all results, in order of their numbers; call it when the stream has ended."""
        self.finish_rows()
        return [self.found[number] for number in sorted(self.requests)]

    def _finish(self, rows: Iterable[int]) -> list[int]:
        """Make results of the requests in some rows that have none."""
        if self.last is None:
            return []
        step = self.last
        places = {row: int(step.place[row]) for row in rows}
        open_rows = {row: n for row, n in places.items() if n in self.requests and n not in self.found}
        if not open_rows:
            return []
        tokens, book = step.canvas.tokens.cpu(), Ledger(step.ledger.book.cpu())
        for row, number in open_rows.items():
            self.found[number] = self._make_result(row, number, step, tokens, book)
        return list(open_rows.values())

    def _make_result(self, row: int, number: int, step: Step, tokens: Int[Tensor, "b t"], book: Ledger) -> Result:
        """Make the result of the request that a row holds; the tokens and the ledger are on the host."""
        facts, request, end = step.canvas.rows, self.requests[number], self.ends[number]
        first = int(facts.text[row])
        tail, stopped = end.cut(tokens[row, first : int(facts.limit[row])].tolist())
        own = (~facts.given[row, : first + len(tail)]).nonzero().flatten()
        return Result(
            prompt_ids=tuple(request.prompt),
            output_ids=tuple(tokens[row, own].tolist()),
            text=end.text(tail, before=tokens[row, :first].tolist() if request.holes else ()),
            nfe=int(step.nfe[row]),
            queries=int(self._queries[row]),
            parallel=int(book.parallel[row, own].sum()),
            certified=int(book.certified[row, own].sum()),
            seconds=float(self._ended[row] - self._begun[row]),
            stopped=stopped,
            when=tuple(book.when[row, own].tolist()),
            prefill=float(self._entered[row] - self._begun[row]),
        )


def split_into_batches(requests: Sequence[Request], size: int | None) -> Iterator[list[Request]]:
    """Split requests, in order, into batches of `size`; None makes one batch."""
    size = size or max(1, len(requests))
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])
