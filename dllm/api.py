"""The front door: decode prompts, stream their text as it becomes final, or walk through the steps of decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dllm.compose.recipes import default_strategy
from dllm.engine.autoregressive import Autoregressive, generate_autoregressively
from dllm.engine.loop import steps
from dllm.engine.results import Collector, Result, split_into_batches
from dllm.errors import ConfigError
from dllm.prompts import Prompt, make_requests
from dllm.requests import Request
from dllm.strategy import Strategy
from dllm.streaming.causal import stream_causal_deltas
from dllm.streaming.delta import Delta
from dllm.streaming.deltas import Deltas
from dllm.streaming.streamers import check_streamers, send_delta
from dllm.types import CausalModel

__all__ = ["decode", "steps", "stream", "stream_to"]


def decode(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    strategy: Strategy | Autoregressive | None = None,
    *,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    seed: int = 0,
) -> list[Result]:
    """Decode prompts and return their results in order.

    Args:
        model: A model from `dllm.load`, or any `dllm.types.Model`.
        prompts: A text, token ids, chat messages or a `Request`; or a list of these.
        strategy: How to decode. None takes the published recipe of the model's family. A plain causal model
            (`AutoregressiveModel`) takes `Autoregressive()` instead of a strategy.
        max_new_tokens: Length of the answer, for prompts that are not requests already.
        batch_size: Rows decoded together; None decodes all at once. A finished row's place is taken by the next
            prompt. No result depends on it.
        seed: Seed of the job: prompt i draws from `seed + i` unless its request has a seed of its own.

    Returns:
        One result for each prompt.

    Raises:
        RequestError: A prompt does not fit the model. Raised before any forward.
        ConfigError: The strategy does not fit the model. Raised before any forward.
        NumericsError: The model's logits are not numbers.

    Example:
        >>> import dllm
        >>> model = dllm.load("embedded")
        >>> strategy = dllm.Strategy(dllm.Factor(f=1.0), dllm.Blocks(), dllm.DualCache())
        >>> result = dllm.decode(model, "Mia has 8 stamps. Lena has 3 more. How many has Lena?", strategy)[0]
        >>> result.nfe < len(result.output_ids)
        True
    """
    requests, plan = _resolve(model, prompts, strategy, max_new_tokens, seed)
    if not requests:
        return []
    if isinstance(plan, Autoregressive):
        batches = split_into_batches(requests, batch_size)
        return [result for batch in batches for result in generate_autoregressively(model, batch, plan)]
    collector = Collector(model, requests, plan)
    for step in steps(model, requests, plan, batch_size=batch_size):
        collector.add(step)
    return collector.results()


def stream(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    strategy: Strategy | Autoregressive | None = None,
    *,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    seed: int = 0,
    drafts: bool = False,
) -> Iterator[Delta]:
    """Decode prompts as `decode` does, and yield what becomes final when it does.

    Args:
        model: As in `decode`.
        prompts: As in `decode`.
        strategy: As in `decode`.
        max_new_tokens: As in `decode`.
        batch_size: As in `decode`.
        seed: As in `decode`.
        drafts: Yield one delta for every step of a request, with the rest of the text as it stands.

    Yields:
        Deltas. Each request ends with one delta that is `done` and holds the result. A plain causal model's text is
        final token by token.

    Raises:
        RequestError: As in `decode`.
        ConfigError: As in `decode`.
        NumericsError: As in `decode`.
    """
    requests, plan = _resolve(model, prompts, strategy, max_new_tokens, seed)
    if not requests:
        return
    if isinstance(plan, Autoregressive):
        yield from stream_causal_deltas(model, requests, plan, batch_size, drafts)
        return
    deltas = Deltas(model, requests, plan, drafts)
    for step in steps(model, requests, plan, batch_size=batch_size):
        yield from deltas.add(step)
    yield from deltas.finish()


def stream_to(
    streamers: Any,
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    strategy: Strategy | Autoregressive | None = None,
    *,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    seed: int = 0,
    prompts_told: bool = False,
) -> list[Result]:
    """Decode prompts as `decode` does, and hand each one's tokens to its streamer as they become final.

    Args:
        streamers: One streamer of `transformers` for one prompt, or a list with one for each prompt. Its `put` gets
            the prompt (1, n) and then final tokens (n,); its `end` is called at the end, also when decoding fails. If
            it has `put_draft`, that gets before each `put` the tokens behind the final ones, the mask id where they
            are pending.
        model: As in `decode`.
        prompts: As in `decode`.
        strategy: As in `decode`.
        max_new_tokens: As in `decode`.
        batch_size: As in `decode`.
        seed: As in `decode`.
        prompts_told: The streamers have got their prompts already.

    Returns:
        One result for each prompt.

    Raises:
        ConfigError: The streamers do not match the prompts, or as in `decode`.
        RequestError: As in `decode`.
        NumericsError: As in `decode`.
    """
    requests, plan = _resolve(model, prompts, strategy, max_new_tokens, seed)
    listeners = list(streamers) if isinstance(streamers, list | tuple) else [streamers]
    check_streamers(listeners, len(requests))
    drafts = any(hasattr(listener, "put_draft") for listener in listeners)
    blank = getattr(model, "mask_id", None) or 0
    unfinished = dict(enumerate(listeners))
    results: dict[int, Result] = {}
    try:
        for listener, request in zip(listeners, requests, strict=True) if not prompts_told else ():
            listener.put(torch.tensor([request.prompt]))
        for delta in stream(model, requests, plan, batch_size=batch_size, drafts=drafts):
            send_delta(listeners[delta.request], delta, blank)
            if delta.result is not None:
                results[delta.request] = delta.result
                unfinished.pop(delta.request).end()
    finally:
        for listener in unfinished.values():  # a consumer thread must not wait for ever
            listener.end()
    return [results[place] for place in range(len(requests))]


def _resolve(
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    strategy: Strategy | Autoregressive | None,
    max_new_tokens: int,
    seed: int,
) -> tuple[list[Request], Strategy | Autoregressive]:
    """Turn prompts into requests and choose how the model decodes them.

    Raises:
        ConfigError: The strategy is not of the kind that the model decodes by.
    """
    requests = make_requests(model, prompts, max_new_tokens, seed)
    causal = isinstance(model, CausalModel)
    if strategy is None:
        return requests, Autoregressive() if causal else default_strategy(model)
    if requests and not isinstance(strategy, Autoregressive if causal else Strategy):
        raise ConfigError(
            f"{strategy} does not fit this {type(model).__name__}: a plain causal model decodes by "
            "Autoregressive(), a diffusion model by a Strategy"
        )
    return requests, strategy
