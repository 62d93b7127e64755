"""Buffer of updates between the engine's thread and a reader that may be slow or disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

from dllm.integrations.server.pending_answers import AnswerUpdate

T = TypeVar("T")


class Mailbox:
    """Updates of the answers of one call.

    The unread updates of an answer are merged into one, so that a slow reader never costs more memory than the answer
    itself.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.unread: dict[int, AnswerUpdate] = {}
        self.available = asyncio.Event()

    def make_callback(self, index: int) -> Callable[[AnswerUpdate], None]:
        """Return a function that puts updates of the answer `index` here; any thread may call it."""

        def put_from_thread(update: AnswerUpdate) -> None:
            with suppress(RuntimeError):  # the event loop is closed, so there is no reader
                self.loop.call_soon_threadsafe(self.put, index, update)

        return put_from_thread

    def put(self, index: int, update: AnswerUpdate) -> None:
        """Add an update of the answer `index`; call it in the event loop's thread only."""
        unread = self.unread.get(index)
        self.unread[index] = update if unread is None else unread.merge(update)
        self.available.set()

    async def fetch(self) -> list[tuple[int, AnswerUpdate]]:
        """Wait until there are updates, then return and remove them, in the order of the answers."""
        await self.available.wait()
        self.available.clear()
        updates, self.unread = sorted(self.unread.items()), {}
        return updates


class ClientDisconnectedError(Exception):
    """The client closed the connection."""


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the outcome of some work, which is cancelled when the client disconnects.

    Raises:
        ClientDisconnectedError: The client disconnected before the work was done.
    """
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        # Both may have finished in the same turn of the event loop: work that is done is never thrown away.
        if task.done():
            return task.result()
        raise ClientDisconnectedError
    finally:
        for pending in (task, watch):
            pending.cancel()
        # A cancelled task is awaited, so that its own clean-up is over before the caller gives back the rows.
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    """Read messages until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
