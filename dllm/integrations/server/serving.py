"""The server process, which finishes the calls that it has before it ends."""

from __future__ import annotations

import ipaddress
import socket
from types import FrameType

import uvicorn

from dllm.integrations.server.api import ServerSettings, make_app
from dllm.integrations.server.engine import ServerEngine
from dllm.integrations.sockets import bind_socket

__all__ = ["LOCAL", "GracefulServer", "bind_socket", "is_loopback_host", "make_server", "serve_on_socket"]

DELIVERY = 30
"""Seconds in which clients may fetch the rest of their answers when everything is decoded."""
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
"""Names by which a server on loopback may be addressed."""


class GracefulServer(uvicorn.Server):
    """Server that refuses new calls and finishes the others at SIGTERM or Ctrl-C; a second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, engine: ServerEngine) -> None:
        super().__init__(config)
        self.engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal; called by uvicorn."""
        if self.engine.draining:
            self.should_exit = self.force_exit = True
        self.stop()

    def stop(self) -> None:
        """Refuse new calls, and end when the last answer is decoded and delivered."""
        # Not `engine.drain()`: a signal handler interrupts the event loop's thread, perhaps within `engine.submit`, and
        # would wait for ever for the lock that this thread holds.
        self.engine.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Begin to shut down once nothing is decoded any more; called by uvicorn several times a second."""
        if self.engine.draining and self.engine.idle:
            self.should_exit = True
        return await super().on_tick(counter)


def make_server(engine: ServerEngine, setting: ServerSettings, log_level: str = "info") -> GracefulServer:
    """Make a server around an engine."""
    config = uvicorn.Config(
        make_app(engine, setting), log_level=log_level, timeout_graceful_shutdown=DELIVERY, server_header=False
    )
    return GracefulServer(config, engine)


def is_loopback_host(host: str) -> bool:
    """Return whether only this machine can reach a server at a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def serve_on_socket(
    engine: ServerEngine, setting: ServerSettings, bound: socket.socket, log_level: str = "info"
) -> None:
    """Serve on a bound socket until a signal ends the server."""
    make_server(engine, setting, log_level).run(sockets=[bound])
