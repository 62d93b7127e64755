"""The page on a port: an ASGI application that refers to nothing outside itself, and a server for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dllm.errors import ConfigError
from dllm.integrations.web.model_library import ModelLibrary

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
"""What a browser may fetch for the page: only what this server has. Gradio's own scripts are inline."""
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
Scope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]


class _ContentPolicyMiddleware:
    """An application whose answers tell browsers to fetch nothing from elsewhere."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        async def closed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, closed)


def _build_application(library: ModelLibrary) -> Any:
    """The page as an ASGI application."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr
    from fastapi import FastAPI

    from dllm.integrations.web.page import build_appearance, build_page

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app, build_page(library), path="/", show_error=False, ssr_mode=False, mcp_server=False, footer_links=[],
        run_history=False, app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None}, **build_appearance(),
    )  # fmt: skip
    return _ContentPolicyMiddleware(app)


def open_listening_socket(host: str, port: int) -> socket.socket:
    """A socket on which visitors may knock already; port 0 takes any that is free. Raises ConfigError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--host {host} --port {port}: {reason}; choose another, or --port 0 for any") from None
    return found


def make_web_server(library: ModelLibrary, found: socket.socket) -> Any:
    """A server that is ready to `run(sockets=[found])`; it ends on SIGINT and SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        _build_application(library), log_level="warning", timeout_graceful_shutdown=2, lifespan="on", access_log=False
    )
    return uvicorn.Server(config)


def format_address(found: socket.socket) -> str:
    """Where a browser finds a bound socket."""
    host, port = found.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}"
