"""From a stream of steps to whole results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dllm import metrics
from dllm.errors import ConfigError
from dllm.prompts import Prompt, to_requests
from dllm.requests import Request
from dllm.sampler import steps, stop_ids
from dllm.stopping import Stopper
from dllm.strategy import Strategy
from dllm.types import Step


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
    seconds     wall time until the row was finished
    stopped     whether an end token or stop string ended it, rather than its length
    when        for each output token the row's forward that decided it, counted from 1
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

    @property
    def tokens_per_forward(self) -> float:
        return metrics.tokens_per_forward(len(self.output_ids), self.nfe)

    @property
    def tokens_per_second(self) -> float:
        return metrics.tokens_per_second(len(self.output_ids), self.seconds)

    @property
    def certified_share(self) -> float | None:
        return metrics.certified_share(self.certified, self.parallel)


class Collector:
    """Gathers the results of one batch from its steps: `for step in steps(…): collector.add(step)`."""

    def __init__(self, model: Any, requests: Sequence[Request], strategy: Strategy) -> None:
        self.requests = list(requests)
        ids = stop_ids(model, requests, strategy)
        self.stopper = Stopper.of(ids, strategy.stopping, model.tokenizer, torch.device("cpu"))
        self.start = time.perf_counter()
        self.seconds = torch.zeros(len(self.requests), dtype=torch.float64)
        self.queries = torch.zeros(len(self.requests), dtype=torch.int64)
        self.last: Step | None = None

    def add(self, step: Step) -> None:
        now = time.perf_counter() - self.start
        self.seconds = torch.where(step.queries > 0, now, self.seconds)
        self.queries = self.queries + step.queries
        self.last = step

    def results(self) -> list[Result]:
        """The results; call it when the stream has ended."""
        assert self.last is not None, "a batch has at least one step"
        canvas, ledger = self.last.canvas, self.last.ledger
        tokens, when = canvas.tokens.cpu(), ledger.when.cpu()
        parallel, certified = ledger.parallel.cpu(), ledger.certified.cpu()
        found = []
        for row, request in enumerate(self.requests):
            text, limit = int(canvas.rows.text[row]), int(canvas.rows.limit[row])
            tail, stopped = self.stopper.cut(row, tokens[row, text:limit].tolist())
            own = (~canvas.rows.given[row, : text + len(tail)]).nonzero().flatten()
            whole = bool(request.holes)
            found.append(
                Result(
                    prompt_ids=tuple(request.prompt),
                    output_ids=tuple(tokens[row, own].tolist()),
                    text=self.stopper.text(tail, before=tokens[row, :text].tolist() if whole else ()),
                    nfe=int(self.last.nfe[row]),
                    queries=int(self.queries[row]),
                    parallel=int(parallel[row, own].sum()),
                    certified=int(certified[row, own].sum()),
                    seconds=float(self.seconds[row]),
                    stopped=stopped,
                    when=tuple(when[row, own].tolist()),
                )
            )
        return found


def decode(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    strategy: Strategy | Any = None,
    *,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    seed: int = 0,
) -> list[Result]:
    """Decode prompts and return their results in order.

    model           from `dllm.load`, or anything that satisfies `dllm.types.Model`
    prompts         a text, token ids, chat messages or a `Request`; or a list of these
    strategy        how to decode; None: the published recipe of the model's family. An `AutoregressiveModel` takes an
                    `Autoregressive` plan instead
    max_new_tokens  for prompts that are not requests already
    batch_size      rows decoded together; None: all. It does not change any result
    seed            of the job: row i draws from seed + i unless its request has a seed of its own

    Raises `RequestError` or `ConfigError` before any forward, `NumericsError` if the model gives no numbers.
    """
    from dllm.baseline import Autoregressive, generate
    from dllm.recipes import default_strategy

    requests = to_requests(model, prompts, max_new_tokens, seed)
    causal = hasattr(model, "generate")
    plan = strategy if strategy is not None else Autoregressive() if causal else default_strategy(model)
    found: list[Result] = []
    for batch in batches(requests, batch_size):
        if causal and isinstance(plan, Autoregressive):
            found += generate(model, batch, plan)
        elif not causal and isinstance(plan, Strategy):
            collector = Collector(model, batch, plan)
            for step in steps(model, batch, plan):
                collector.add(step)
            found += collector.results()
        else:
            raise ConfigError(
                f"{plan} does not fit this {type(model).__name__}: a plain causal model decodes by "
                "Autoregressive(), a diffusion model by a Strategy"
            )
    return found


def batches(requests: Sequence[Request], size: int | None) -> Iterator[list[Request]]:
    """Requests in order, `size` at a time."""
    size = size or max(1, len(requests))
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])
