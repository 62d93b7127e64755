"""What a call's answers have become, kept for one reader who may be slow, or leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

from dllm.integrations.server.pending_answers import AnswerUpdate

T = TypeVar("T")


class Mailbox:
    """News of several answers; all that was not fetched yet of one is a single piece, so that it never takes more room
    than the answer."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.kept: dict[int, AnswerUpdate] = {}
        self.filled = asyncio.Event()

    def teller(self, index: int) -> Callable[[AnswerUpdate], None]:
        """What an engine's thread tells the news of one answer to."""

        def tell(news: AnswerUpdate) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to read
                self.loop.call_soon_threadsafe(self.put, index, news)

        return tell

    def put(self, index: int, news: AnswerUpdate) -> None:
        known = self.kept.get(index)
        self.kept[index] = news if known is None else known.then(news)
        self.filled.set()

    async def fetch(self) -> list[tuple[int, AnswerUpdate]]:
        """What there is, once there is something."""
        await self.filled.wait()
        self.filled.clear()
        found, self.kept = sorted(self.kept.items()), {}
        return found


class ClientDisconnectedError(Exception):
    """The client hung up."""


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The outcome of some work, which ends when the client hangs up: then raises `HungUpError`."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnectedError
    finally:
        for other in (task, watch):
            other.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
