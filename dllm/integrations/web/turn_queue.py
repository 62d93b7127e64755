"""Taking turns: one decodes at a time, in the order in which they came, and each can see how many are before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 0.2
"""Seconds between two looks at whether one who waits has given up."""


class TurnQueue:
    """A queue before something that serves one at a time."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queue: list[object] = []

    @contextmanager
    def turn(self, waiting: Callable[[int], bool]) -> Iterator[bool]:
        """Wait for one's turn, and keep it while inside; False: gave up before it came.

        waiting  is told again and again how many are before, and says whether to go on waiting
        """
        ticket = object()
        with self.changed:
            self.queue.append(ticket)
        try:
            yield self.wait(ticket, waiting)
        finally:
            with self.changed:
                self.queue.remove(ticket)
                self.changed.notify_all()

    def wait(self, ticket: object, waiting: Callable[[int], bool]) -> bool:
        with self.changed:
            while before := self.queue.index(ticket):
                if not waiting(before):
                    return False
                self.changed.wait(PATIENCE)
        return True
