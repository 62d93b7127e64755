"""Where requests come from: a list, or a queue that grows while it is decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dllm.requests import Request


@runtime_checkable
class RequestQueue(Protocol):
    """A queue that may grow while others are decoded; `dllm.steps` takes one in place of a list.

    A run asks it before every step, and ends when no row is open and nobody waits: whoever comes later needs another
    run. The requests have been checked, and have a seed, the strategy's end tokens, and room on `width` columns.
    """

    @property
    def width(self) -> int:
        """Columns of the canvas."""
        ...

    def take(self, most: int) -> Sequence[tuple[int, Request]]:
        """Requests that get a row now, `most` at most, each with the number by which `Step.place` is to call it: 0 or
        more, and never one that this run has used."""
        ...

    def gone(self) -> Collection[int]:
        """Numbers for whose results nobody waits any more: their rows are free from now on."""
        ...


@dataclass
class ListQueue:
    """A list of requests as a feed: numbered in order, and all of them stay.

    taken  how many have got a row
    """

    requests: Sequence[Request]
    width: int
    taken: int = 0

    def take(self, most: int) -> list[tuple[int, Request]]:
        first, self.taken = self.taken, min(len(self.requests), self.taken + most)
        return [(number, self.requests[number]) for number in range(first, self.taken)]

    def gone(self) -> tuple[int, ...]:
        return ()
