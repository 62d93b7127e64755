"""A queue in which callers take turns, one at a time and in order, and see how many are ahead of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 0.2
"""Seconds between two questions whether a caller that waits has given up."""


class TurnQueue:
    """A queue for something that serves one caller at a time.

    Attributes:
        changed: Condition that guards the queue and announces its changes.
        queue: One ticket for each caller; the first has its turn.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queue: list[object] = []

    @contextmanager
    def turn(self, keep_waiting: Callable[[int], bool]) -> Iterator[bool]:
        """Wait for a turn and hold it within the block.

        Args:
            keep_waiting: Function that is called again and again with the number of callers ahead, and returns whether
                to wait on. It must not block.

        Yields:
            Whether the turn came; False after the caller gave up.
        """
        ticket = object()
        with self.changed:
            self.queue.append(ticket)
        try:
            yield self._wait_for_turn(ticket, keep_waiting)
        finally:
            with self.changed:
                self.queue.remove(ticket)
                self.changed.notify_all()

    def _wait_for_turn(self, ticket: object, keep_waiting: Callable[[int], bool]) -> bool:
        """Wait until a ticket is the first and return True; return False as soon as its caller gives up."""
        with self.changed:
            while ahead := self.queue.index(ticket):
                if not keep_waiting(ahead):
                    return False
                self.changed.wait(PATIENCE)
        return True
