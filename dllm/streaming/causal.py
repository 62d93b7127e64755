"""The deltas of a plain causal model, whose text is final token by token.

`generate` of `transformers` runs to its end and reports tokens through a streamer, so it runs in a thread of its own
and its tokens come back through a queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from dllm.engine.autoregressive import Autoregressive, generate_autoregressively
from dllm.engine.results import Result, split_into_batches
from dllm.engine.stop import AnswerEnd
from dllm.requests import Request
from dllm.streaming.delta import Delta, empty_draft
from dllm.streaming.final_text import GrowingText

_Message = tuple[int, int] | list[Result] | BaseException
"""Message from the generating thread: a token as (request, id), at last the results, or the error that ended it."""


class _StreamAbandoned(Exception):  # noqa: N818 nothing failed
    """Signal, in the generating thread, that the stream was closed."""


class _TokenStreamer:
    """A streamer, as `transformers` has them, that puts tokens into a queue as (request, token).

    Args:
        first: Request of the first row.
        messages: Queue for the tokens.
        abandoned: Event that is set when the stream is closed. The next token then ends the generation.
    """

    def __init__(self, first: int, messages: SimpleQueue[_Message], abandoned: Event) -> None:
        self._first, self._messages, self._abandoned = first, messages, abandoned
        self._saw_prompt = False

    def put(self, value: Any) -> None:
        """Take the tokens of one forward, one a row; the first call brings the prompts instead."""
        if self._abandoned.is_set():
            raise _StreamAbandoned
        if self._saw_prompt:
            for row, token in enumerate(value.flatten().tolist()):
                self._messages.put((self._first + row, token))
        self._saw_prompt = True

    def end(self) -> None:
        """Do nothing: the results, which follow, mark the end."""


class _StreamingModel:
    """The part of an `AutoregressiveModel` that generation needs, with a streamer for the tokens.

    Args:
        model: The model.
        first: Request of the first prompt.
        messages: Queue for the tokens.
        abandoned: Event that is set when the stream is closed.
    """

    def __init__(self, model: Any, first: int, messages: SimpleQueue[_Message], abandoned: Event) -> None:
        self.stop_ids, self.tokenizer = model.stop_ids, model.tokenizer
        self._model, self._place, self._messages, self._abandoned = model, first, messages, abandoned

    def generate(self, prompts: Sequence[Sequence[int]], *options: Any) -> list[list[int]]:
        """Generate as the model does. The prompts of all calls are numbered one after the other."""
        streamer = _TokenStreamer(self._place, self._messages, self._abandoned)
        self._place += len(prompts)
        outputs: list[list[int]] = self._model.generate(prompts, *options, streamer=streamer)
        return outputs


def stream_causal_deltas(
    model: Any, requests: Sequence[Request], plan: Autoregressive, batch_size: int | None, drafts: bool
) -> Iterator[Delta]:
    """Yield the deltas of requests in order, a batch at a time; the last deltas of a batch come together at its end.

    Args:
        model: An `AutoregressiveModel`.
        requests: The requests.
        plan: The way to decode them.
        batch_size: Requests decoded together; None: all.
        drafts: Whether deltas have drafts, which are empty here.
    """
    texts = [GrowingText(AnswerEnd.of(model, request, plan.stopping)) for request in requests]
    first = 0
    for batch in split_into_batches(requests, batch_size):
        for item in stream_batch_tokens(model, batch, plan, first):
            if isinstance(item, Result):
                sent = texts[first]
                yield Delta.of_result(first, item, sent.text, len(sent.tail), drafts)
                first += 1
                continue
            place, token = item
            # A row that has ended is padded until the whole batch has ended; what it gets then does not count.
            if not texts[place].ended:
                text, new = texts[place].grow([], [token])
                yield Delta(place, text, tuple(new), False, None, *empty_draft(drafts))


def stream_batch_tokens(
    model: Any, batch: Sequence[Request], plan: Autoregressive, first: int
) -> Iterator[tuple[int, int] | Result]:
    """Yield the tokens (request, token) of a batch that begins with the request `first`, then its results."""
    messages: SimpleQueue[_Message] = SimpleQueue()
    abandoned = Event()

    def work() -> None:
        try:
            messages.put(generate_autoregressively(_StreamingModel(model, first, messages, abandoned), batch, plan))
        except BaseException as error:  # raised again in the thread that reads the queue, which would else wait forever
            messages.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while isinstance(message := messages.get(), tuple):
            yield message
        if isinstance(message, BaseException):
            raise message
        yield from message
    finally:
        # Also when the stream is closed early: generation ends at its next token, and no thread outlives the stream.
        abandoned.set()
        thread.join()
