"""From a stream of steps to whole results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dllm import metrics
from dllm.engine.stop import Stopper, resolve_stop_ids
from dllm.requests import Request
from dllm.strategy import Strategy
from dllm.types import Canvas, Ledger, Step


@dataclass(frozen=True)
class Result:
    """What became of one request. Words and units as in `dllm.metrics`.

    prompt_ids  what was given
    output_ids  new tokens in order of their columns, up to and with the first end token; else exactly as many as asked
    text        the new tokens as text, without what follows a stop string; with holes the whole text, filled. None
                without a tokenizer
    nfe         forwards of this row
    queries     columns run through the model for this row
    parallel    generated tokens that were committed two or more at once
    certified   those of them that are certified
    seconds     wall time from the row's first step until it was finished
    stopped     whether an end token or stop string ended it, rather than its length
    when        for each output token the row's forward that decided it, counted from 1
    prefill     those of the seconds until the row's first step was done; None where that was not measured
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
    """Gathers results from steps: `for step in steps(…): collector.add(step)`.

    found  results so far, by the request's place
    """

    def __init__(self, model: Any, requests: Sequence[Request], strategy: Strategy) -> None:
        self.requests = list(requests)
        ids = resolve_stop_ids(model, requests, strategy.stopping)
        self.stopper = Stopper.of(ids, strategy.stopping, model.tokenizer, torch.device("cpu"))
        self.found: dict[int, Result] = {}
        self.last: Step | None = None
        self.clock = time.perf_counter()

    def add(self, step: Step) -> list[int]:
        """Take note of a step; the requests whose result is known by now and was not before."""
        if step.canvas.tokens.is_cuda:  # a step is handed over while the device still works on it
            torch.cuda.synchronize(step.canvas.tokens.device)
        now = time.perf_counter()
        if self.last is None:
            self.begun = torch.full_like(step.nfe, self.clock, dtype=torch.float64)
            self.ended, self.queries = self.begun.clone(), torch.zeros_like(step.queries)
            self.entered = self.begun.clone()
            left = changed = torch.zeros_like(step.window.closed)
        else:
            changed = step.place != self.last.place
            left = changed | step.window.closed
        ready = self.finish([row for row in left.nonzero().flatten().tolist() if self.open(row)])
        self.begun = torch.where(changed, self.clock, self.begun)
        self.queries = torch.where(changed, 0, self.queries) + step.queries
        busy = (step.window.end > step.window.start) | step.window.commit
        self.ended = torch.where(busy, now, self.ended)
        self.entered = torch.where(busy & (step.nfe == 1), now, self.entered)
        self.last, self.clock = step, now
        return ready

    def open(self, row: int) -> bool:
        """Whether the result of a row's request is still to come."""
        assert self.last is not None
        return int(self.last.place[row]) not in self.found

    def finish(self, rows: list[int]) -> list[int]:
        """Note the results of some rows as the last step left them; the requests they belong to."""
        if not rows:
            return []
        assert self.last is not None, "a batch has at least one step"
        step = self.last
        tokens, given, text, limit = step.canvas.tokens.cpu(), *_text_layout(step.canvas)
        ledger = Ledger(step.ledger.book.cpu())
        when, parallel, certified = ledger.when, ledger.parallel, ledger.certified
        ready = []
        for row in rows:
            place, first = int(step.place[row]), int(text[row])
            tail, stopped = self.stopper.cut(place, tokens[row, first : int(limit[row])].tolist())
            own = (~given[row, : first + len(tail)]).nonzero().flatten()
            request = self.requests[place]
            self.found[place] = Result(
                prompt_ids=tuple(request.prompt),
                output_ids=tuple(tokens[row, own].tolist()),
                text=self.stopper.text(tail, before=tokens[row, :first].tolist() if request.holes else ()),
                nfe=int(step.nfe[row]),
                queries=int(self.queries[row]),
                parallel=int(parallel[row, own].sum()),
                certified=int(certified[row, own].sum()),
                seconds=float(self.ended[row] - self.begun[row]),
                stopped=stopped,
                when=tuple(when[row, own].tolist()),
                prefill=float(self.entered[row] - self.begun[row]),
            )
            ready.append(place)
        return ready

    def results(self) -> list[Result]:
        """All results in order; call it when the stream has ended."""
        assert self.last is not None, "a batch has at least one step"
        self.finish([row for row in range(len(self.last.place)) if self.open(row)])
        return [self.found[i] for i in range(len(self.requests))]


def _text_layout(canvas: Canvas) -> tuple[Tensor, Tensor, Tensor]:
    """What was given (b, t), where each row's text begins behind it and where it ends (b,)."""
    return canvas.rows.given, canvas.rows.text, canvas.rows.limit


def split_into_batches(requests: Sequence[Request], size: int | None) -> Iterator[list[Request]]:
    """Requests in order, `size` at a time."""
    size = size or max(1, len(requests))
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])
