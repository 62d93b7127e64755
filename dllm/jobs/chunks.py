"""A job in chunks for workers that may die: which are next, which come back, and results in the order of the rows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from dllm.errors import DllmError
from dllm.jobs.plan import DecodeTask
from dllm.jobs.running import Event, RowFailed, batch_key, split_tasks

Place = tuple[int, ...]


class WorkerDiedError(DllmError):
    """A worker is gone, and with it what it was doing."""


@dataclass
class Chunk:
    """Rows of one plan that one worker decodes.

    place   where it stands in its job; parts of a chunk stand behind each other in its place
    deaths  workers that died over it
    """

    place: Place
    tasks: Sequence[DecodeTask]
    deaths: int = 0


def split_tasks_into_chunks(tasks: Sequence[DecodeTask], batch_size: int, workers: int) -> Iterator[Chunk]:
    """Tasks of one plan together: two batches, whose finished rows give way to others, or fewer where there are few."""
    size = max(1, min(2 * batch_size, math.ceil(len(tasks) / workers)))
    place = 0
    for _, group in groupby(tasks, key=batch_key):
        for part in split_tasks(list(group), size):
            yield Chunk((place,), part)
            place += 1


@dataclass
class ChunkQueue:
    """The chunks of a job, from first to last.

    waiting  those to be given to a worker, by their places
    retries  how many workers may die over a chunk before its rows are tried one by one, and then given up
    ahead    by how many chunks the last that is given out may be ahead of the first that is not done
    """

    waiting: list[Chunk]
    retries: int
    ahead: int
    order: deque[Place] = field(default_factory=deque)
    ready: dict[Place, list[Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = deque(chunk.place for chunk in self.waiting)

    def next(self) -> Chunk | None:
        """The next chunk for a worker; None where there is none, or it would be too far ahead."""
        if self.waiting and self.waiting[0].place[0] < self.order[0][0] + self.ahead:
            return self.waiting.pop(0)
        return None

    def done(self, chunk: Chunk, events: list[Event]) -> None:
        """What became of a chunk."""
        self.ready[chunk.place] = events

    def back(self, chunk: Chunk) -> None:
        """Take a chunk back from a worker that died; after too many deaths row by row, so that only one row fails."""
        if chunk.deaths <= self.retries:
            self.waiting = sorted([chunk, *self.waiting], key=lambda one: one.place)
        elif len(chunk.tasks) == 1:
            error = WorkerDiedError(f"{chunk.deaths} workers died over this row: is there memory for it?")
            self.done(chunk, [RowFailed(chunk.tasks[0], error)])
        else:
            parts = [Chunk((*chunk.place, i), [task], self.retries) for i, task in enumerate(chunk.tasks)]
            self.waiting = sorted([*parts, *self.waiting], key=lambda one: one.place)
            self.order = deque(sorted([*(p for p in self.order if p != chunk.place), *(p.place for p in parts)]))

    def told(self) -> Iterator[Event]:
        """What became of the rows that are next, as far as that is known."""
        while self.order and self.order[0] in self.ready:
            yield from self.ready.pop(self.order.popleft())
