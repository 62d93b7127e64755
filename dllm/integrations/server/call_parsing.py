"""From the body of a call to what is decoded: requests with seeds, a strategy, and room for both."""

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
"""Columns of the narrowest canvas; wider ones are twice as wide each, so that few kinds of run are needed."""


@dataclass(frozen=True)
class ApiCall:
    """What one call asks for.

    prompts   token ids of each
    requests  all answers: `n` for the first prompt, `n` for the second, …
    seed      of the first answer
    width     columns of the canvas
    """

    prompts: Sequence[tuple[int, ...]]
    requests: Sequence[Request]
    strategy: Strategy
    seed: int
    width: int
    drafts: bool

    def tickets(self, mailbox: Mailbox) -> list[Ticket]:
        return [
            Ticket(request, self.strategy, self.width, mailbox.teller(i), self.drafts)
            for i, request in enumerate(self.requests)
        ]


def prepare_call(model: Any, body: Any, limits: ServerLimits, recipe: str | None = None) -> ApiCall:
    """What a body asks of a model. Raises ApiError where it cannot be done as asked, before any forward.

    recipe  that or the strategy of calls that name none; None: that of the model's family
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
        return ApiCall(
            prompts, requests, strategy, seed, _choose_canvas_width(fitted, requests), bool(body.stream and body.drafts)
        )
    except DllmError as error:
        raise ApiError.of(error) from None


def _check_parts_accept(model: Any, request: Request, strategy: Strategy) -> None:
    """Let every part have a look at the request, as each may refuse it. Raises ConfigError or RequestError."""
    with torch.inference_mode():
        Batch.open(model, [request], strategy, 0, None).start()


def _read_prompts(model: Any, body: Any) -> list[tuple[int, ...]]:
    """Token ids of a body's prompts. Raises RequestError."""
    if isinstance(body, ChatCompletionBody):
        return [tokenize_prompt(model, [_convert_message(m) for m in body.messages], chat=True)]
    assert isinstance(body, CompletionBody)
    given: Any = body.prompt
    several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    return [
        tokenize_prompt(model, tuple(prompt) if isinstance(prompt, list) else prompt, chat=False)
        for prompt in (given if several else [given])
    ]


def _convert_message(message: Any) -> dict[str, str]:
    """A message as templates take it."""
    text = message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
    return {"role": "system" if message.role == "developer" else message.role, "content": text}


def _read_answer_length(body: CallBody, limits: ServerLimits) -> int:
    """New tokens of each answer."""
    newer = getattr(body, "max_completion_tokens", None)
    if newer is not None and body.max_tokens is not None and newer != body.max_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one of them", "max_completion_tokens")
    return newer or body.max_tokens or limits.new_tokens


def _check_columns(model: Any, prompts: Sequence[tuple[int, ...]], length: int, limits: ServerLimits) -> None:
    """Raise ApiError for what is longer than the server allows; the model's own context is checked elsewhere."""
    most = min(limits.columns or model.max_columns, model.max_columns)
    longest = max(map(len, prompts))
    if longest + length > most:
        said = f"a prompt of {longest} tokens and {length} new ones are {longest + length}, but at most {most} fit"
        code = "context_length_exceeded"
        raise ApiError(400, f"{said}: shorten the prompt or lower max_tokens", "max_tokens", code)


def _choose_canvas_width(model: Any, requests: Sequence[Request]) -> int:
    """Columns of a canvas for a call."""
    needed = int(model.geometry.extent(torch.tensor([request.limit for request in requests])).max())
    width = NARROWEST
    while width < needed:
        width *= 2
    return width


def _read_options(body: Any, limits: ServerLimits, recipe: str | None) -> Options:
    """How a body wants its answers decoded."""
    given = {name: getattr(body, name) for name in (*OPTIONS, *STANDARD) if getattr(body, name) not in (None, ())}
    for alias, name in ALIASES.items():
        value = getattr(body, alias)
        if value is not None and name in given:
            raise ApiError(400, f"{alias} and {name} are the same: give one of them", alias)
        given |= {} if value is None else {name: value}
    if body.strategy is not None and body.recipe is not None:
        raise ApiError(400, "recipe and strategy: give one of them; each sets every part", "strategy")
    given.setdefault("recipe", recipe if body.strategy is None else body.strategy)
    given["stop"] = _read_stop_strings(body.stop, limits)
    given["processor"] = (*given.get("processor", ()), *_build_constraint(body.response_format))
    return Options(**given)


def _read_stop_strings(stop: str | list[str] | None, limits: ServerLimits) -> tuple[str, ...]:
    found = tuple([stop] if isinstance(stop, str) else stop or ())
    if len(found) > limits.stops:
        raise ApiError(400, f"{len(found)} stop strings: at most {limits.stops}", "stop")
    return found


def _build_constraint(form: Any) -> list[str]:
    """The processor that holds an answer to a schema, as a text."""
    if form is None or form.type == "text":
        return []
    schema = (form.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise ApiError(400, "response_format.json_schema needs a schema", "response_format")
    from dllm.processors import JsonSchema

    return [repr(JsonSchema(json.dumps(schema)))]
