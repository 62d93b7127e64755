"""Autoregressive decoding: a plain causal model, one token a forward from left to right; the baseline of strategies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from dllm.engine.results import Result
from dllm.engine.stop import AnswerEnd, resolve_stop_ids
from dllm.errors import RequestError
from dllm.requests import Request
from dllm.strategy import Sampling, Stopping


@dataclass(frozen=True)
class Autoregressive:
    """A plan for a plain causal model, through `generate` of `transformers`: the counterpart of a `Strategy`.

    Attributes:
        sampling: How a token is drawn.
        stopping: What ends a row before its length is reached.
    """

    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()


def generate_autoregressively(model: Any, requests: Sequence[Request], plan: Autoregressive) -> list[Result]:
    """Decode requests with an `AutoregressiveModel`; those of equal length and end tokens run together.

    Every generated token counts as one forward.

    Raises:
        RequestError: A request has holes.
    """
    refuse_holes(requests)
    found: list[Result] = []
    for _, group in groupby(requests, key=lambda r: (r.max_new_tokens, r.stop_ids)):
        found += _generate_batch(model, list(group), plan)
    return found


def refuse_holes(requests: Sequence[Request]) -> None:
    """Raise RequestError for a text with holes."""
    if any(request.holes for request in requests):
        raise RequestError("a plain causal language model writes from left to right: it cannot fill holes")


def _generate_batch(model: Any, requests: Sequence[Request], plan: Autoregressive) -> Iterator[Result]:
    """Decode requests of equal length and end tokens; a stop string cuts what was written."""
    sampling, stopping = plan.sampling, plan.stopping
    ends = [AnswerEnd.of(model, request, stopping) for request in requests]
    (stops,) = resolve_stop_ids(model, requests[:1], stopping)
    start = time.perf_counter()
    outputs = model.generate(
        [request.prompt for request in requests],
        requests[0].max_new_tokens,
        stops,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k or None,
        [request.seed or 0 for request in requests],
    )
    seconds = time.perf_counter() - start
    for end, request, output in zip(ends, requests, outputs, strict=True):
        tokens, stopped = end.cut(output)
        n = len(tokens)
        yield Result(
            prompt_ids=tuple(request.prompt),
            output_ids=tuple(tokens),
            text=end.text(tokens),
            nfe=n,
            queries=len(request.prompt) + n - 1,
            parallel=0,
            certified=0,
            seconds=seconds,
            stopped=stopped,
            when=tuple(range(1, n + 1)),
        )
