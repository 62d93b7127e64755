"""The streamers of `transformers`, fed with what becomes final."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dllm.api import stream
from dllm.engine.results import Result
from dllm.errors import ConfigError
from dllm.prompts import Prompt, make_requests
from dllm.strategy import Strategy
from dllm.streaming.deltas import Delta


def stream_to(
    streamers: Any,
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    strategy: Strategy | Any = None,
    *,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    seed: int = 0,
    prompts_told: bool = False,
) -> list[Result]:
    """Decode prompts as `decode` does, and tell each one's tokens to its streamer as they become final.

    streamers  one, for one prompt; or a list, one a prompt: those of `transformers` follow a single text each. Of such
               a streamer `put` gets the prompt (1, n) and then final tokens (n,), `end` is called at the end, also when
               decoding fails, so that nobody waits for ever. If it has `put_draft`, that gets before each `put` the
               tokens behind the final ones, the mask id where they are pending
    prompts_told  the streamers have been told their prompts

    Raises `ConfigError` for streamers that do not match the prompts, and what `decode` raises.
    """
    requests = make_requests(model, prompts, max_new_tokens, seed)
    listeners = list(streamers) if isinstance(streamers, list | tuple) else [streamers]
    _check_streamers(listeners, len(requests))
    drafts = any(hasattr(listener, "put_draft") for listener in listeners)
    blank = getattr(model, "mask_id", None) or 0
    open_ones = dict(enumerate(listeners))
    results: dict[int, Result] = {}
    try:
        for listener, request in zip(listeners, requests, strict=True) if not prompts_told else ():
            listener.put(torch.tensor([request.prompt]))
        for delta in stream(model, requests, strategy, batch_size=batch_size, drafts=drafts):
            _send_delta(listeners[delta.request], delta, blank)
            if delta.result is not None:
                results[delta.request] = delta.result
                open_ones.pop(delta.request).end()
    finally:
        for listener in open_ones.values():
            listener.end()
    return [results[place] for place in range(len(requests))]


def _check_streamers(listeners: Sequence[Any], count: int) -> None:
    """Raise ConfigError for streamers that cannot follow so many prompts."""
    if len(listeners) != count:
        raise ConfigError(
            f"{len(listeners)} streamers for {count} prompts: a streamer follows one text, so give one each"
        )
    for listener in listeners:
        if getattr(listener, "_takes_logits", False):
            raise ConfigError(
                f"{type(listener).__name__} wants the logits of drafts, which are never kept: use one that does not"
            )


def _send_delta(listener: Any, delta: Delta, blank: int) -> None:
    """What became final, and the draft behind it for those that show one."""
    if delta.ids:
        listener.put(torch.tensor(delta.ids))
    if delta.pending and hasattr(listener, "put_draft"):
        listener.put_draft(torch.tensor([blank if token is None else token for token in delta.pending]))
