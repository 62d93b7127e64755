"""The deltas of a plain causal model, whose text is final token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch

from dllm.engine.autoregressive import Autoregressive, generate_autoregressively
from dllm.engine.results import Result, split_into_batches
from dllm.engine.stop import Stopper, resolve_stop_ids
from dllm.requests import Request
from dllm.streaming.delta import Delta
from dllm.streaming.final_text import GrowingText


class _StreamAbandoned(Exception):  # noqa: N818 nothing failed
    """Nobody listens any more."""


class _TokenStreamer:
    """A streamer, as `transformers` has them, that passes tokens on as (request, token).

    first      the request of its first row
    told       where the tokens go
    abandoned  set when nobody wants them any more: generating ends then
    """

    def __init__(self, first: int, told: SimpleQueue[Any], abandoned: Event) -> None:
        self.first, self.told, self.abandoned = first, told, abandoned
        self.prompt = True

    def put(self, value: Any) -> None:
        if self.abandoned.is_set():
            raise _StreamAbandoned
        if not self.prompt:
            for row, token in enumerate(value.flatten().tolist()):
                self.told.put((self.first + row, token))
        self.prompt = False

    def end(self) -> None:
        pass


class _StreamingModel:
    """An `AutoregressiveModel` whose tokens are heard while it generates."""

    def __init__(self, model: Any, first: int, told: SimpleQueue[Any], abandoned: Event) -> None:
        self.model, self.place, self.told, self.abandoned = model, first, told, abandoned

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def generate(self, prompts: Sequence[Sequence[int]], *how: Any) -> list[list[int]]:
        ear = _TokenStreamer(self.place, self.told, self.abandoned)
        self.place += len(prompts)
        return self.model.generate(prompts, *how, streamer=ear)


def stream_causal_deltas(
    model: Any, requests: Sequence[Request], plan: Autoregressive, batch_size: int | None, drafts: bool
) -> Iterator[Delta]:
    """The deltas of requests in order, a batch at a time; a batch's last deltas come together, behind it."""
    ids = resolve_stop_ids(model, requests, plan.stopping)
    stopper = Stopper.of(ids, plan.stopping, model.tokenizer, torch.device("cpu"))
    growing = [GrowingText(stopper, place) for place in range(len(requests))]
    nothing = ("", ()) if drafts else (None, None)
    first = 0
    for batch in split_into_batches(requests, batch_size):
        for heard in stream_batch_tokens(model, batch, plan, first):
            if isinstance(heard, Result):
                told = growing[first]
                yield Delta.last(first, heard, told.text, len(told.tail), drafts)
                first += 1
            elif not growing[heard[0]].ended:
                text, new = growing[heard[0]].grow([], [heard[1]])
                yield Delta(heard[0], text, tuple(new), False, None, *nothing)


def stream_batch_tokens(
    model: Any, batch: Sequence[Request], plan: Autoregressive, first: int
) -> Iterator[tuple[int, int] | Result]:
    """The tokens (request, token) of a batch that begins with the request `first`, then its results."""
    told: SimpleQueue[Any] = SimpleQueue()
    abandoned = Event()

    def work() -> None:
        try:
            told.put(generate_autoregressively(_StreamingModel(model, first, told, abandoned), batch, plan))
        except BaseException as error:
            told.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while isinstance(heard := told.get(), tuple):
            yield heard
        if isinstance(heard, BaseException):
            raise heard
        yield from heard
    finally:
        abandoned.set()
        thread.join()
