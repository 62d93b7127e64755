"""The process: a socket, and an end that loses nothing that was promised."""

from __future__ import annotations

import ipaddress
import socket
from types import FrameType

import uvicorn

from dllm.errors import ConfigError
from dllm.integrations.server.api import ServerSettings, make_app
from dllm.integrations.server.engine import ServerEngine

DELIVERY = 30
"""Seconds that readers have, once all is decoded, to fetch the rest."""
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")


class GracefulServer(uvicorn.Server):
    """Finishes what runs and refuses new work when it is told to end (SIGTERM, Ctrl-C); told twice, it ends at once."""

    def __init__(self, config: uvicorn.Config, engine: ServerEngine) -> None:
        super().__init__(config)
        self.engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.engine.draining:
            self.should_exit = self.force_exit = True
        self.stop()

    def stop(self) -> None:
        """Refuse new work; end when the last answer is decoded and delivered."""
        self.engine.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self.engine.draining and self.engine.idle:
            self.should_exit = True
        return await super().on_tick(counter)


def make_server(engine: ServerEngine, setting: ServerSettings, log_level: str = "info") -> GracefulServer:
    config = uvicorn.Config(
        make_app(engine, setting), log_level=log_level, timeout_graceful_shutdown=DELIVERY, server_header=False
    )
    return GracefulServer(config, engine)


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket at an address, which listens once the server runs; port 0: any that is free. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}") from None
    return found


def is_loopback_host(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def serve_on_socket(
    engine: ServerEngine, setting: ServerSettings, found: socket.socket, log_level: str = "info"
) -> None:
    """Serve until told to end."""
    make_server(engine, setting, log_level).run(sockets=[found])
