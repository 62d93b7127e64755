"""The page as an ASGI application that refers to nothing outside itself, and a server for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dllm.integrations.sockets import bind_socket
from dllm.integrations.web.model_library import ModelLibrary

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
"""Content that a browser may load for the page: only this server's. Gradio's own scripts are inline."""
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
Scope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]


class _ContentPolicyMiddleware:
    """Middleware that adds `HEADERS` to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        async def add_headers_and_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, add_headers_and_send)


def _build_application(library: ModelLibrary) -> Any:
    """Build the page as an ASGI application."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
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
    """Open a socket on which browsers may connect already; their requests wait until the page is built.

    Args:
        host: Address to listen at.
        port: The port; 0: any that is free.

    Raises:
        ConfigError: The address cannot be used.
    """
    return bind_socket(host, port, listen=True)


def make_web_server(library: ModelLibrary, bound: socket.socket) -> Any:
    """Make a server that is ready to `run(sockets=[bound])`; it ends on SIGINT and SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        _build_application(library), log_level="warning", timeout_graceful_shutdown=2, lifespan="on", access_log=False
    )
    return uvicorn.Server(config)


def format_address(bound: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}"
