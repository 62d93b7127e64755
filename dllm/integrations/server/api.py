"""The ASGI application: its routes, who may call them, and the counting of calls."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dllm.integrations.server.call_parsing import prepare_call
from dllm.integrations.server.engine import ServerEngine
from dllm.integrations.server.error_responses import ApiError, install_error_handlers
from dllm.integrations.server.limits import ServerLimits, read_body
from dllm.integrations.server.metrics import ServerMetrics
from dllm.integrations.server.reply_format import CHAT, TEXT, ReplyBuilder, ReplyFormat
from dllm.integrations.server.responses import CallAnswer, EventStreamResponse
from dllm.integrations.server.schemas import CallBody, ChatCompletionBody, CompletionBody, parse_body
from dllm.version import VERSION

KEYLESS_PATHS = ("/health",)
"""Paths that may be called without the API key."""


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        name: Name of the model in calls and replies.
        limits: How much a caller may ask for.
        key: API key that calls must present; None: anybody may call.
        hosts: Names by which calls may address the server, so that no page of the web can reach it under a name of the
            page's own (DNS rebinding); None: any.
        recipe: Recipe of calls that name none.
    """

    name: str
    limits: ServerLimits = ServerLimits()
    key: str | None = None
    hosts: tuple[str, ...] | None = None
    recipe: str | None = None


def make_app(engine: ServerEngine, setting: ServerSettings) -> FastAPI:
    """Make the application around an engine; its life span starts and closes the engine."""
    metrics = ServerMetrics(engine)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await run_in_threadpool(engine.close)

    app = FastAPI(title="dllm", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_AccessMiddleware, setting=setting, metrics=metrics)
    install_error_handlers(app)

    async def answer_call(request: Request, kind: type[CallBody], form: ReplyFormat) -> Response:
        raw = await read_body(request, setting.limits)
        body = parse_body(kind, raw)
        if body.model not in (None, setting.name):
            raise ApiError(404, f"model {body.model!r}: here is {setting.name!r}", "model", "model_not_found")
        _check_stream_fields(body)
        # Templates, tokenizers and constraints take long enough to hold up every other call in the event loop.
        call = await run_in_threadpool(prepare_call, engine.model, body, setting.limits, setting.recipe)
        answer = CallAnswer(engine, metrics, ReplyBuilder(form, setting.name, call))
        if body.stream:
            return EventStreamResponse(answer, bool(body.stream_options and body.stream_options.include_usage))
        return await answer.respond_whole(request.receive)

    @app.post("/v1/chat/completions")
    async def create_chat_completion(request: Request) -> Response:
        return await answer_call(request, ChatCompletionBody, CHAT)

    @app.post("/v1/completions")
    async def create_completion(request: Request) -> Response:
        return await answer_call(request, CompletionBody, TEXT)

    def describe_model() -> dict[str, Any]:
        columns = min(setting.limits.columns or engine.model.max_columns, engine.model.max_columns)
        details = {"family": getattr(engine.model, "family", None), "max_columns": columns}
        return {"id": setting.name, "object": "model", "created": created, "owned_by": "dllm", "dllm": details}

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [describe_model()]})

    @app.get("/v1/models/{name:path}")
    async def retrieve_model(name: str) -> Response:
        if name != setting.name:
            raise ApiError(404, f"model {name!r}: here is {setting.name!r}", "model", "model_not_found")
        return JSONResponse(describe_model())

    @app.get("/health")
    async def report_health() -> Response:
        if not engine.thread.is_alive():
            return JSONResponse({"status": "stopped"}, 503)
        return JSONResponse({"status": "draining"}, 503) if engine.draining else JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def report_metrics() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return app


def _check_stream_fields(body: CallBody) -> None:
    """Refuse fields that have a meaning in a stream only.

    Raises:
        ApiError: The call has such a field and does not ask for a stream.
    """
    for name, value in (("stream_options", body.stream_options), ("drafts", body.drafts)):
        if value and not body.stream:
            raise ApiError(400, f"{name} needs stream=true", name)


class _AccessMiddleware:
    """Middleware that refuses calls without access, and counts all calls."""

    def __init__(self, app: ASGIApp, setting: ServerSettings, metrics: ServerMetrics) -> None:
        self.app, self.setting, self.metrics = app, setting, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The route's pattern, not the path: arbitrary paths would make arbitrarily many time series.
                route = scope.get("route")
                self.metrics.calls.labels(getattr(route, "path", "other"), str(message["status"])).inc()
            await send(message)

        error = self._find_refusal(scope["path"], Headers(scope=scope))
        await (self.app if error is None else error.response())(scope, receive, count_and_send)

    def _find_refusal(self, path: str, headers: Headers) -> ApiError | None:
        """Return the reason to refuse a call, or None."""
        host = headers.get("host", "").rpartition("@")[2]
        # The port is cut off; an IPv6 address holds colons too, and ends with its bracket.
        name = host[: host.rfind("]") + 1] or host.partition(":")[0]
        if self.setting.hosts is not None and name.lower() not in self.setting.hosts:
            return ApiError(421, f"host {host!r} is not served here: name it with --allowed-host")
        if self.setting.key is None or path in KEYLESS_PATHS:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # The comparison takes equally long for every key of one length, so that its time reveals no part of the key.
        if scheme.lower() == "bearer" and hmac.compare_digest(key.encode(), self.setting.key.encode()):
            return None
        message = "wrong API key" if key else "no API key: send the header Authorization: Bearer KEY"
        return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
