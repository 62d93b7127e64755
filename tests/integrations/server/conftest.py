"""Servers on loopback in a thread of the tests' own process, and models that can be paused or made to fail."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("fastapi")

import httpx
import openai

import dllm
from dllm.integrations.server.api import ServerSettings
from dllm.integrations.server.engine import ServerEngine
from dllm.integrations.server.limits import ServerLimits
from dllm.integrations.server.serving import GracefulServer, bind_socket, make_server
from tests.waiting import until

QUESTIONS = [
    "Tom has 3 apples and buys 4 more. How many apples has he?",
    "Zoe has 7 cards. Tom has 4 more cards than Zoe. How many cards do they have together?",
    "How many are 3 and 4?",
    "Anna has 12 pens and gives 5 away. How many pens has she?",
]


@dataclass
class Site:
    """A running server.

    Attributes:
        url: Its address.
        engine: Its engine.
        server: The server itself.
        thread: The thread that it runs in.
    """

    url: str
    engine: ServerEngine
    server: GracefulServer
    thread: threading.Thread

    def client(self, **more: Any) -> openai.OpenAI:
        """Return an OpenAI client for it."""
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | more)

    def http(self, **more: Any) -> httpx.Client:
        """Return an HTTP client for it."""
        return httpx.Client(base_url=self.url, timeout=120, **more)

    def settle(self) -> None:
        """Wait until nothing is decoded any more."""
        until(lambda: self.engine.idle)


@contextmanager
def site(model: Any, rows: int = 4, runs: int = 2, **given: Any) -> Iterator[Site]:
    """Run a server for a model; `given` are fields of `ServerSettings` and `ServerLimits`."""
    limits = ServerLimits(
        **{name: given.pop(name) for name in list(given) if name in ServerLimits.__dataclass_fields__}
    )
    engine = ServerEngine(model, rows, runs, limits.waiting)
    bound = bind_socket("127.0.0.1", 0)
    server = make_server(engine, ServerSettings("tiny", limits, **given), "warning")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield Site(f"http://127.0.0.1:{bound.getsockname()[1]}", engine, server, thread)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


class Gate:
    """A gate that forwards wait at, so that a test can act within a step, however fast the machine is."""

    def __init__(self) -> None:
        self.allowed = math.inf
        self.changed = threading.Condition()

    def allow(self, forwards: float) -> None:
        """Let so many forwards pass from now on."""
        with self.changed:
            self.allowed = forwards
            self.changed.notify_all()

    def wait(self) -> None:
        """Wait until one more forward may pass."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.allowed > 0, 60), "held for a minute"
            self.allowed -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop all forwards within the block, except those that `allow` lets pass."""
        self.allow(0)
        try:
            yield
        finally:
            self.allow(math.inf)


class FailingModel:
    """A model that does everything like another, but can be paused and fails on some tokens.

    Args:
        model: The other model.
        poison: Token that makes all outputs of its row NaN.
        bomb: Token whose forward raises `RuntimeError`.
        gate: Gate that every forward passes.
    """

    def __init__(self, model: Any, poison: int = -1, bomb: int = -1, gate: Gate | None = None) -> None:
        self.model, self.poison, self.bomb, self.gate = model, poison, bomb, gate or Gate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def with_block(self, size: int) -> FailingModel:
        return FailingModel(self.model.with_block(size), self.poison, self.bomb, self.gate)

    def forward(self, query: Any, store: Any) -> Tensor:
        self.gate.wait()
        if bool((query.tokens == self.bomb).any()):
            raise RuntimeError("the bomb")
        out = self.model.forward(query, store)
        return torch.where((query.tokens == self.poison).any(1).view(-1, 1, 1), torch.nan, out)


@pytest.fixture(scope="session")
def embedded() -> Any:
    return dllm.load("embedded")


@pytest.fixture(scope="package")
def here(embedded: Any) -> Iterator[Site]:
    """Run a server for the embedded model."""
    with site(embedded) as found:
        yield found


@pytest.fixture(scope="package")
def small(embedded: Any) -> Iterator[Site]:
    """Run a server with two rows and room for three waiting answers, for a model that can be paused."""
    with site(FailingModel(embedded), rows=2, runs=1, waiting=3) as found:
        yield found
