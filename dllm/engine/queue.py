"""Where requests come from: a list, or a queue that grows while it is decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dllm.requests import Request


@runtime_checkable
class RequestQueue(Protocol):
    """A queue that may grow while requests are decoded; `dllm.steps` takes one in place of a list.

    It is asked before every step. Decoding ends when no row is open and no request waits: whoever comes later needs
    another call. The requests have been checked, and have a seed, the strategy's end tokens, and room on `width`
    columns.
    """

    @property
    def width(self) -> int:
        """Columns of the canvas."""
        ...

    def take(self, most: int) -> Sequence[tuple[int, Request]]:
        """Hand out at most `most` requests that get a row now.

        Each comes with the number by which `Step.place` is to call it: 0 or more, and never one that was used before.
        """
        ...

    def gone(self) -> Collection[int]:
        """List the numbers for whose results nobody waits any more: their rows are free from now on."""
        ...


@dataclass
class ListQueue:
    """A list of requests as a queue: numbered in order, and all of them stay.

    Attributes:
        requests: All requests.
        width: Columns of the canvas.
        taken: Requests that have got a row.
    """

    requests: Sequence[Request]
    width: int
    taken: int = 0

    def take(self, most: int) -> list[tuple[int, Request]]:
        first, self.taken = self.taken, min(len(self.requests), self.taken + most)
        return [(number, self.requests[number]) for number in range(first, self.taken)]

    def gone(self) -> tuple[int, ...]:
        return ()
