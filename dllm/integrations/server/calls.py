"""From the body of a call to what is decoded: requests with seeds, a strategy, and room for both."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dllm.errors import DllmError
from dllm.integrations.server.failing import ApiError
from dllm.integrations.server.limits import Limits
from dllm.integrations.server.mailbox import Mailbox
from dllm.integrations.server.schemas import ALIASES, OPTIONS, STANDARD, ChatCompletion, Common, Completion
from dllm.integrations.server.tickets import Ticket
from dllm.jobs.plan import prompt_ids
from dllm.options import Options
from dllm.requests import Request
from dllm.sampler import fit
from dllm.seats import Seats
from dllm.strategy import Strategy

NARROWEST = 128
"""Columns of the narrowest canvas; wider ones are twice as wide each, so that few kinds of run are needed."""


@dataclass(frozen=True)
class Call:
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


def prepare(model: Any, body: Any, limits: Limits, recipe: str | None = None) -> Call:
    """What a body asks of a model. Raises ApiError where it cannot be done as asked, before any forward.

    recipe  that or the strategy of calls that name none; None: that of the model's family
    """
    try:
        prompts = prompts_of(model, body)
        answers = len(prompts) * (body.n or 1)
        if answers > limits.choices:
            raise ApiError(400, f"{answers} answers in one call: at most {limits.choices} (prompts times n)", "n")
        length = length_of(body, limits)
        check_room(model, prompts, length, limits)
        strategy = options_of(body, limits, recipe).strategy(model, length)
        seed = random.randrange(2**31) if body.seed is None else body.seed
        repeated = [prompt for prompt in prompts for _ in range(body.n or 1)]
        requests = [Request(prompt, length, seed=seed + i) for i, prompt in enumerate(repeated)]
        fitted = fit(model, strategy)
        for i, prompt in enumerate(prompts):
            request = Request(prompt, length, seed=seed + i)
            request.check(fitted, model.vocabulary)
            rehearse(fitted, request, strategy)
        return Call(prompts, requests, strategy, seed, width_of(fitted, requests), bool(body.stream and body.drafts))
    except DllmError as error:
        raise ApiError.of(error) from None


def rehearse(model: Any, request: Request, strategy: Strategy) -> None:
    """Let every part have a look at the request, as each may refuse it. Raises ConfigError or RequestError."""
    with torch.inference_mode():
        Seats.of(model, [request], strategy, None).begin()


def prompts_of(model: Any, body: Any) -> list[tuple[int, ...]]:
    """Token ids of a body's prompts. Raises RequestError."""
    if isinstance(body, ChatCompletion):
        return [prompt_ids(model, [message_of(m) for m in body.messages], chat=True)]
    assert isinstance(body, Completion)
    given: Any = body.prompt
    several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    return [
        prompt_ids(model, tuple(prompt) if isinstance(prompt, list) else prompt, chat=False)
        for prompt in (given if several else [given])
    ]


def message_of(message: Any) -> dict[str, str]:
    """A message as templates take it."""
    text = message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
    return {"role": "system" if message.role == "developer" else message.role, "content": text}


def length_of(body: Common, limits: Limits) -> int:
    """New tokens of each answer."""
    newer = getattr(body, "max_completion_tokens", None)
    if newer is not None and body.max_tokens is not None and newer != body.max_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ: give one of them", "max_completion_tokens")
    return newer or body.max_tokens or limits.new_tokens


def check_room(model: Any, prompts: Sequence[tuple[int, ...]], length: int, limits: Limits) -> None:
    """Raise ApiError for what is longer than the server allows; the model's own context is checked elsewhere."""
    most = min(limits.columns or model.max_columns, model.max_columns)
    longest = max(map(len, prompts))
    if longest + length > most:
        said = f"a prompt of {longest} tokens and {length} new ones are {longest + length}, but at most {most} fit"
        code = "context_length_exceeded"
        raise ApiError(400, f"{said}: shorten the prompt or lower max_tokens", "max_tokens", code)


def width_of(model: Any, requests: Sequence[Request]) -> int:
    """Columns of a canvas for a call."""
    needed = int(model.geometry.extent(torch.tensor([request.limit for request in requests])).max())
    width = NARROWEST
    while width < needed:
        width *= 2
    return width


def options_of(body: Any, limits: Limits, recipe: str | None) -> Options:
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
    given["stop"] = stops_of(body.stop, limits)
    given["processor"] = (*given.get("processor", ()), *constraint(body.response_format))
    return Options(**given)


def stops_of(stop: str | list[str] | None, limits: Limits) -> tuple[str, ...]:
    found = tuple([stop] if isinstance(stop, str) else stop or ())
    if len(found) > limits.stops:
        raise ApiError(400, f"{len(found)} stop strings: at most {limits.stops}", "stop")
    return found


def constraint(form: Any) -> list[str]:
    """The processor that holds an answer to a schema, as a text."""
    if form is None or form.type == "text":
        return []
    schema = (form.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        raise ApiError(400, "response_format.json_schema needs a schema", "response_format")
    from dllm.processors import JsonSchema

    return [repr(JsonSchema(json.dumps(schema)))]
