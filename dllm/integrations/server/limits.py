"""How much a caller may ask for, and bodies read no further than that."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, fields

from starlette.requests import ClientDisconnect, Request

from dllm.errors import ConfigError
from dllm.integrations.server.error_responses import ApiError


@dataclass(frozen=True)
class ServerLimits:
    """What a server accepts.

    waiting     answers that may wait for a row; a call that would make it more gets 429
    body        bytes of a call; more gets 413
    patience    seconds in which a body has to arrive; later gets 408
    columns     of prompt and answer together, in tokens; None: the model's context
    choices     answers of one call: prompts times `n`
    stops       stop strings of one call
    new_tokens  of an answer whose call does not say
    """

    waiting: int = 256
    body: int = 1 << 20
    patience: float = 30.0
    columns: int | None = None
    choices: int = 64
    stops: int = 16
    new_tokens: int = 128

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"Limits({field.name}={value}): must be a positive number")


async def read_body(request: Request, limits: ServerLimits) -> bytes:
    """The body of a call. Raises ApiError as soon as it is known to be too long, late, or not JSON by its label."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type {kind or '(none)'}: send JSON and say so, content-type: application/json")
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limits.body:
        raise _make_too_long_error(limits)
    found = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            async for part in request.stream():
                found += part
                if len(found) > limits.body:
                    raise _make_too_long_error(limits)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.patience:g} seconds") from None
    except ClientDisconnect:
        raise ApiError(499, "the client hung up while it sent its body") from None
    return bytes(found)


def _make_too_long_error(limits: ServerLimits) -> ApiError:
    return ApiError(413, f"the body is longer than {limits.body} bytes: shorten it", code="request_too_large")
