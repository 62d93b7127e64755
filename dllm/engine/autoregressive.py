"""The baseline of every strategy: a plain causal model, one token a forward from left to right."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from dllm.engine.results import Result
from dllm.engine.stop import Stopper
from dllm.errors import RequestError
from dllm.requests import Request
from dllm.strategy import Sampling, Stopping


@dataclass(frozen=True)
class Autoregressive:
    """How a plain causal model decodes, through `generate` of `transformers`. The counterpart of a `Strategy`."""

    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()


def generate_autoregressively(model: Any, requests: Sequence[Request], plan: Autoregressive) -> list[Result]:
    """Results of requests in order; those of equal length and end tokens run together.

    model  an `AutoregressiveModel`. Every generated token counts as one forward.
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
    """Results of requests of equal length and end tokens; a stop string cuts what was written."""
    sampling, stopping = plan.sampling, plan.stopping
    stops = next(ids for ids in (requests[0].stop_ids, stopping.ids, model.stop_ids) if ids is not None)
    stopper = Stopper.of([stops] * len(requests), stopping, model.tokenizer, torch.device("cpu"))
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
    for row, (request, output) in enumerate(zip(requests, outputs, strict=True)):
        tokens, stopped = stopper.cut(row, output)
        n = len(tokens)
        yield Result(
            prompt_ids=tuple(request.prompt),
            output_ids=tuple(tokens),
            text=stopper.text(tokens),
            nfe=n,
            queries=len(request.prompt) + n - 1,
            parallel=0,
            certified=0,
            seconds=seconds,
            stopped=stopped,
            when=tuple(range(1, n + 1)),
        )
