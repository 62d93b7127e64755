"""Limits on what a caller may ask for, and the reading of bodies no further than these allow."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict, dataclass

from starlette.requests import ClientDisconnect, Request

from dllm.errors import ConfigError
from dllm.integrations.server.error_responses import ApiError


@dataclass(frozen=True)
class ServerLimits:
    """Limits of a server.

    Attributes:
        waiting: Answers that may wait for a row; a call that would exceed it gets status 429.
        body: Bytes of a call; a longer one gets 413.
        patience: Seconds in which a body has to arrive; a later one gets 408.
        columns: Tokens of prompt and answer together; None: the model's context.
        choices: Answers of one call, that is prompts times `n`.
        stops: Stop strings of one call.
        new_tokens: Length of answers whose call does not give one, in tokens.

    Raises:
        ConfigError: A limit is not a positive finite number.
    """

    waiting: int = 256
    body: int = 1 << 20
    patience: float = 30.0
    columns: int | None = None
    choices: int = 64
    stops: int = 16
    new_tokens: int = 128

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"Limits({name}={value}): must be a positive number")


async def read_body(request: Request, limits: ServerLimits) -> bytes:
    """Read the body of a call.

    Raises:
        ApiError: The body is too long, late, cut off, or not declared as JSON. It is raised as soon as that is known.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page of another site may post plain text or forms without asking (CORS), but not JSON.
    if kind != "application/json":
        raise ApiError(415, f"content-type {kind or '(none)'}: send JSON and say so, content-type: application/json")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body:
        raise _make_too_long_error(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            async for part in request.stream():
                body += part
                if len(body) > limits.body:  # chunked bodies declare no length
                    raise _make_too_long_error(limits)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.patience:g} seconds") from None
    except ClientDisconnect:
        raise ApiError(499, "the client hung up while it sent its body") from None
    return bytes(body)


def _make_too_long_error(limits: ServerLimits) -> ApiError:
    """Return the error for a body that is too long."""
    return ApiError(413, f"the body is longer than {limits.body} bytes: shorten it", code="request_too_large")
