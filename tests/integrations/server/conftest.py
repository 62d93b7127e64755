"""Servers on loopback, in a thread of the tests' own process, and models that can be held, or break."""

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
    """A server that runs."""

    url: str
    engine: ServerEngine
    server: GracefulServer
    thread: threading.Thread

    def client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | more)

    def http(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **more)

    def settle(self) -> None:
        """Wait until nothing is decoded."""
        until(lambda: self.engine.idle)


@contextmanager
def site(model: Any, rows: int = 4, runs: int = 2, **given: Any) -> Iterator[Site]:
    """A server for a model; `given` are fields of Setting and Limits."""
    own = {name: given.pop(name) for name in list(given) if name in ServerLimits.__dataclass_fields__}
    limits = ServerLimits(**own)
    engine = ServerEngine(model, rows, runs, limits.waiting)
    found = bind_socket("127.0.0.1", 0)
    server = make_server(engine, ServerSettings("tiny", limits, **given), "warning")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [found]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield Site(f"http://127.0.0.1:{found.getsockname()[1]}", engine, server, thread)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


class Gate:
    """Where forwards wait, so that what happens meanwhile happens within a step, however fast the machine is."""

    def __init__(self) -> None:
        self.allowed = math.inf
        self.changed = threading.Condition()

    def allow(self, forwards: float) -> None:
        with self.changed:
            self.allowed = forwards
            self.changed.notify_all()

    def wait(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.allowed > 0, 60), "held for a minute"
            self.allowed -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """No forward goes on, but for those that are allowed meanwhile."""
        self.allow(0)
        try:
            yield
        finally:
            self.allow(math.inf)


class Odd:
    """A model that does all as another, but can be held, and breaks on some tokens.

    poison  a row that holds this token in its query gets no numbers
    bomb    a forward over this token raises
    gate    where forwards wait while it is held
    """

    def __init__(self, model: Any, poison: int = -1, bomb: int = -1, gate: Gate | None = None) -> None:
        self.model, self.poison, self.bomb, self.gate = model, poison, bomb, gate or Gate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def with_block(self, size: int) -> Odd:
        return Odd(self.model.with_block(size), self.poison, self.bomb, self.gate)

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
    """A server of the embedded model."""
    with site(embedded) as found:
        yield found


@pytest.fixture(scope="package")
def small(embedded: Any) -> Iterator[Site]:
    """Likewise, with two rows, three that may wait, and a model that can be held."""
    with site(Odd(embedded), rows=2, runs=1, waiting=3) as found:
        yield found
