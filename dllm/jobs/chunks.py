"""A job cut into chunks for workers that may die: the order of work, its repetition, and results in row order."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from dllm.errors import DllmError
from dllm.jobs.plan import DecodeTask
from dllm.jobs.running import Event, RowFailed, batch_key

Place = tuple[int, ...]
"""Position of a chunk in its job. Places sort like the rows: the parts of chunk (4,) are (4, 0), (4, 1), ..."""


class WorkerDiedError(DllmError):
    """A worker is gone, and with it what it was doing."""


@dataclass
class Chunk:
    """Rows of one plan that one worker decodes.

    Attributes:
        place: Position of the chunk in its job.
        tasks: The rows, in order.
        deaths: Number of workers that died while they decoded this chunk.
    """

    place: Place
    tasks: Sequence[DecodeTask]
    deaths: int = 0


def split_tasks_into_chunks(tasks: Sequence[DecodeTask], batch_size: int, workers: int) -> Iterator[Chunk]:
    """Yield the chunks of a job in order; a chunk holds tasks of one plan only.

    A chunk is two batches large, so that a finished row of the first batch gives its place to a row of the second.
    Where there are too few tasks to give every worker that many, the chunks are smaller.
    """
    size = max(1, min(2 * batch_size, math.ceil(len(tasks) / workers)))
    place = 0
    for _, group in groupby(tasks, key=batch_key):
        members = list(group)
        for start in range(0, len(members), size):
            yield Chunk((place,), members[start : start + size])
            place += 1


@dataclass
class ChunkQueue:
    """The chunks of a job, from first to last.

    Attributes:
        waiting: Chunks that no worker has, sorted by place.
        retries: Number of workers that may die while they decode a chunk. After one more death its rows are tried one
            by one, and a single row is given up.
        ahead: Number of chunks by which the last chunk that is given out may be ahead of the first that is not done.
            It bounds the results that are held back until they are next.
        order: Places whose events have not been handed out yet, in order.
        ready: Events of chunks that are done but not handed out, by place.
    """

    waiting: list[Chunk]
    retries: int
    ahead: int
    order: deque[Place] = field(default_factory=deque)
    ready: dict[Place, list[Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order = deque(chunk.place for chunk in self.waiting)

    def next(self) -> Chunk | None:
        """Take the next chunk for a worker; None if there is none, or if it would be too far ahead."""
        if self.waiting and self.waiting[0].place[0] < self.order[0][0] + self.ahead:
            return self.waiting.pop(0)
        return None

    def done(self, chunk: Chunk, events: list[Event]) -> None:
        """Note the events of a chunk that a worker has finished."""
        self.ready[chunk.place] = events

    def back(self, chunk: Chunk) -> None:
        """Take a chunk back from a worker that died.

        After too many deaths its rows are tried one by one, so that only the row that kills its worker fails.
        """
        if chunk.deaths <= self.retries:
            self.waiting = sorted([chunk, *self.waiting], key=lambda one: one.place)
        elif len(chunk.tasks) == 1:
            error = WorkerDiedError(f"{chunk.deaths} workers died over this row: is there memory for it?")
            self.done(chunk, [RowFailed(chunk.tasks[0], error)])
        else:
            # Each row starts with all but one of its lives used up: the next death gives it up.
            parts = [Chunk((*chunk.place, i), [task], self.retries) for i, task in enumerate(chunk.tasks)]
            self.waiting = sorted([*parts, *self.waiting], key=lambda one: one.place)
            self.order = deque(sorted([*(p for p in self.order if p != chunk.place), *(p.place for p in parts)]))

    def told(self) -> Iterator[Event]:
        """Yield and remove the events of the chunks that are next in order, up to the first that is not done."""
        while self.order and self.order[0] in self.ready:
            yield from self.ready.pop(self.order.popleft())
