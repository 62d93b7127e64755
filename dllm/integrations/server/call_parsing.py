"""From the body of a call to what the engine decodes: requests with seeds, a strategy and a canvas width."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dllm.compose.options import Options
from dllm.engine.batch import Batch, match_block_size
from dllm.errors import DllmError
from dllm.integrations.server.answer_buffer import Mailbox
from dllm.integrations.server.error_responses import ApiError
from dllm.integrations.server.limits import ServerLimits
from dllm.integrations.server.pending_answers import Ticket
from dllm.integrations.server.schemas import ALIASES, OPTIONS, STANDARD, CallBody, ChatCompletionBody, CompletionBody
from dllm.jobs.plan import tokenize_prompt
from dllm.requests import Request
from dllm.strategy import Strategy

NARROWEST = 128
"""Columns of the narrowest canvas. Each wider one has twice as many, so that calls of similar length share a run."""


@dataclass(frozen=True)
class ApiCall:
    """A call that can be decoded.

    Attributes:
        prompts: Token ids of each prompt.
        requests: One for each answer: `n` for the first prompt, `n` for the second, …
        strategy: How all of them are decoded.
        seed: Seed of the first answer.
        width: Columns of the canvas.
        drafts: Whether the caller also gets provisional text.
    """

    prompts: Sequence[tuple[int, ...]]
    requests: Sequence[Request]
    strategy: Strategy
    seed: int
    width: int
    drafts: bool

    def make_tickets(self, mailbox: Mailbox) -> list[Ticket]:
        """Return a ticket for each answer; its updates go to a mailbox."""
        return [
            Ticket(request, self.strategy, self.width, mailbox.make_callback(i), self.drafts)
            for i, request in enumerate(self.requests)
        ]


def prepare_call(model: Any, body: CallBody, limits: ServerLimits, recipe: str | None = None) -> ApiCall:
    """Turn the body of a call into a call that can be decoded.

    Args:
        model: The model that decodes it.
        body: The body.
        limits: How much a caller may ask for.
        recipe: Recipe or strategy of calls that name none; None: that of the model's family.

    Raises:
        ApiError: The call cannot be decoded as asked. This is found before any forward.
    """
    try:
        prompts = _read_prompts(model, body)
        answers = len(prompts) * (body.n or 1)
        if answers > limits.choices:
            raise ApiError(400, f"{answers} answers in one call: at most {limits.choices} (prompts times n)", "n")
        length = _read_answer_length(body, limits)
        _check_columns(model, prompts, length, limits)
        strategy = _read_options(body, limits, recipe).strategy(model, length)
        seed = random.randrange(2**31) if body.seed is None else body.seed
        repeated = [prompt for prompt in prompts for _ in range(body.n or 1)]
        requests = [Request(prompt, length, seed=seed + i) for i, prompt in enumerate(repeated)]
        fitted = match_block_size(model, strategy)
        for i, prompt in enumerate(prompts):
            request = Request(prompt, length, seed=seed + i)
            request.check(fitted, model.vocabulary)
            _check_parts_accept(fitted, request, strategy)
        width = _choose_canvas_width(fitted, requests)
        return ApiCall(prompts, requests, strategy, seed, width, bool(body.stream and body.drafts))
    except DllmError as error:
        raise ApiError.of(error) from None


def _check_parts_accept(model: Any, request: Request, strategy: Strategy) -> None:
    """Prepare a batch of the request alone, since each part may refuse a request when its state is made.

    Raises:
        ConfigError: A part cannot work with this model or length.
        RequestError: A part cannot work with this request.
    """
    with torch.inference_mode():
        Batch.open(model, [request], strategy, 0, None).start()


def _read_prompts(model: Any, body: CallBody) -> list[tuple[int, ...]]:
    """Return the token ids of a body's prompts.

    Raises:
        RequestError: A prompt is empty or cannot be tokenized.
    """
    if isinstance(body, ChatCompletionBody):
        return [tokenize_prompt(model, [_convert_message(m) for m in body.messages], chat=True)]
    assert isinstance(body, CompletionBody)
    given: Any = body.prompt
    # A list of integers is one prompt in tokens; every other list that is not empty holds several prompts.
    several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    return [
        tokenize_prompt(model, tuple(prompt) if isinstance(prompt, list) else prompt, chat=False)
        for prompt in (given if several else [given])
    ]


def _convert_message(message: Any) -> dict[str, str]:
    """Return a message in the form that chat templates take."""
    text = message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
    return {"role": "system" if message.role == "developer" else message.role, "content": text}


def _read_answer_length(body: CallBody, limits: ServerLimits) -> int:
    """Return the number of new tokens of each answer.

    Raises:
        ApiError: The old and the new name of the field have different values.
    """
    newer: int | None = body.max_completion_tokens if isinstance(body, ChatCompletionBody) else None
    if newer is not None and body.max_tokens is not None and newer != body.max_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one of them", "max_completion_tokens")
    return newer or body.max_tokens or limits.new_tokens


def _check_columns(model: Any, prompts: Sequence[tuple[int, ...]], length: int, limits: ServerLimits) -> None:
    """Refuse prompts and answers that are together longer than the server allows or the model can take.

    Raises:
        ApiError: The longest prompt and its answer do not fit.
    """
    most = min(limits.columns or model.max_columns, model.max_columns)
    longest = max(map(len, prompts))
    if longest + length > most:
        sizes = f"a prompt of {longest} tokens and {length} new ones are {longest + length}, but at most {most} fit"
        code = "context_length_exceeded"
        raise ApiError(400, f"{sizes}: shorten the prompt or lower max_tokens", "max_tokens", code)


def _choose_canvas_width(model: Any, requests: Sequence[Request]) -> int:
    """Return the columns of the narrowest canvas that holds the requests."""
    needed = int(model.geometry.extent(torch.tensor([request.limit for request in requests])).max())
    width = NARROWEST
    while width < needed:
        width *= 2
    return width


def _read_options(body: CallBody, limits: ServerLimits, recipe: str | None) -> Options:
    """Return the decoding options of a body.

    Raises:
        ApiError: Two fields contradict each other, or one of them is beyond the limits.
    """
    values = dict(body)
    given = {name: values[name] for name in (*OPTIONS, *STANDARD) if values[name] not in (None, ())}
    for alias, name in ALIASES.items():
        if values[alias] is None:
            continue
        if name in given:
            raise ApiError(400, f"{alias} and {name} are the same: give one of them", alias)
        given[name] = values[alias]
    if values["strategy"] is not None and values["recipe"] is not None:
        raise ApiError(400, "recipe and strategy: give one of them; each sets every part", "strategy")
    given.setdefault("recipe", recipe if values["strategy"] is None else values["strategy"])
    given["stop"] = _read_stop_strings(body.stop, limits)
    given["processor"] = (*given.get("processor", ()), *_build_constraint(body.response_format))
    return Options(**given)


def _read_stop_strings(stop: str | list[str] | None, limits: ServerLimits) -> tuple[str, ...]:
    """Return the stop strings of a call.

    Raises:
        ApiError: There are more than the limits allow.
    """
    strings = tuple([stop] if isinstance(stop, str) else stop or ())
    if len(strings) > limits.stops:
        raise ApiError(400, f"{len(strings)} stop strings: at most {limits.stops}", "stop")
    return strings


def _build_constraint(form: Any) -> list[str]:
    """Return the expression of the processor that makes an answer satisfy a JSON schema; none for plain text.

    Raises:
        ApiError: The schema is missing.
    """
    if form is None or form.type == "text":
        return []
    schema = (form.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise ApiError(400, "response_format.json_schema needs a schema", "response_format")
    from dllm.processors import JsonSchema

    return [repr(JsonSchema(json.dumps(schema)))]
