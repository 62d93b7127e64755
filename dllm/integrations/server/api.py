"""The app: routes, who may call them, and what is counted of it."""

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

OPEN = ("/health",)
"""Paths that need no key."""


@dataclass(frozen=True)
class ServerSettings:
    """How a server is set up.

    name    by which calls name the model
    key     that calls have to bring; None: anybody may call
    hosts   by which calls may name the server, so that no page of the web can reach it under a name of its own; None:
            any
    recipe  of calls that name none
    """

    name: str
    limits: ServerLimits = ServerLimits()
    key: str | None = None
    hosts: tuple[str, ...] | None = None
    recipe: str | None = None


def make_app(engine: ServerEngine, setting: ServerSettings) -> FastAPI:
    """The app around an engine, which it starts and stops."""
    metrics = ServerMetrics(engine)
    began = int(time.time())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await run_in_threadpool(engine.close)

    app = FastAPI(title="dllm", version=VERSION, lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_AccessMiddleware, setting=setting, metrics=metrics)
    install_error_handlers(app)

    async def answer(request: Request, kind: type[CallBody], form: ReplyFormat) -> Response:
        raw = await read_body(request, setting.limits)
        body: Any = parse_body(kind, raw)
        if body.model not in (None, setting.name):
            raise ApiError(404, f"model {body.model!r}: here is {setting.name!r}", "model", "model_not_found")
        _check_stream_fields(body)
        call = await run_in_threadpool(prepare_call, engine.model, body, setting.limits, setting.recipe)
        found = CallAnswer(engine, metrics, ReplyBuilder(form, setting.name, call))
        if body.stream:
            return EventStreamResponse(found, bool(body.stream_options and body.stream_options.include_usage))
        return await found.whole(request.receive)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(request, ChatCompletionBody, CHAT)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await answer(request, CompletionBody, TEXT)

    def card() -> dict[str, Any]:
        columns = min(setting.limits.columns or engine.model.max_columns, engine.model.max_columns)
        about = {"family": getattr(engine.model, "family", None), "max_columns": columns}
        return {"id": setting.name, "object": "model", "created": began, "owned_by": "dllm", "dllm": about}

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card()]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != setting.name:
            raise ApiError(404, f"model {name!r}: here is {setting.name!r}", "model", "model_not_found")
        return JSONResponse(card())

    @app.get("/health")
    async def health() -> Response:
        if not engine.thread.is_alive():
            return JSONResponse({"status": "stopped"}, 503)
        return JSONResponse({"status": "draining"}, 503) if engine.draining else JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def figures() -> Response:
        return Response(metrics.text(), media_type=metrics.kind)

    return app


def _check_stream_fields(body: CallBody) -> None:
    """Raise ApiError for what only a stream can do."""
    for name in ("stream_options", "drafts"):
        if getattr(body, name) and not body.stream:
            raise ApiError(400, f"{name} needs stream=true", name)


class _AccessMiddleware:
    """Lets in who may call, and counts all calls."""

    def __init__(self, app: ASGIApp, setting: ServerSettings, metrics: ServerMetrics) -> None:
        self.app, self.setting, self.metrics = app, setting, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                self.metrics.calls.labels(getattr(route, "path", "other"), str(message["status"])).inc()
            await send(message)

        error = self.refuse(scope["path"], Headers(scope=scope))
        await (self.app if error is None else error.response())(scope, receive, counted)

    def refuse(self, path: str, headers: Headers) -> ApiError | None:
        """Why a call is not let in."""
        host = headers.get("host", "").rpartition("@")[2]
        name = host[: host.rfind("]") + 1] or host.partition(":")[0]
        if self.setting.hosts is not None and name.lower() not in self.setting.hosts:
            return ApiError(421, f"host {host!r} is not served here: name it with --allowed-host")
        if self.setting.key is None or path in OPEN:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(key.encode(), self.setting.key.encode()):
            return None
        said = "wrong API key" if key else "no API key: send the header Authorization: Bearer KEY"
        return ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
