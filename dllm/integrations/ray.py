"""Decoding on a Ray cluster: workers that hold a model each, and none whose death loses or repeats a row (extra `ray`).

Rows go to the workers in small chunks, never more than a few ahead of what is written, and come back in the order of
their job, so that the file a job writes is the one that it would write in one process. Only the driver writes. When a
worker dies its chunks go to others and another worker takes its place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError
from dllm.jobs import DecodeTask, Event, Job, LocalEngine, PromptRow, RowDone, RowFailed, RowProblem
from dllm.jobs.chunks import Chunk, ChunkQueue, WorkerDiedError, split_tasks_into_chunks

QUEUED = 2
"""Chunks that a worker has at a time, one of them waiting, so that it never idles."""
AHEAD = 4
"""Chunks for each worker by which the fastest may be ahead of the first that is not done."""
STORE = 128 * 2**20
"""Bytes of the object store of a cluster that is started here: nothing but rows passes through it."""


class _RayWorker:
    """What an actor is: a local engine, opened when it is first needed so that its errors can be told."""

    def __init__(self, name: str, loading: Mapping[str, Any], threads: int) -> None:
        import torch

        self.engine, self.loaded = LocalEngine(name, loading), False
        if threads:
            torch.set_num_threads(threads)

    def open(self) -> LocalEngine:
        if not self.loaded:
            self.engine.__enter__()
            self.loaded = True
        return self.engine

    def pid(self) -> int:
        return os.getpid()

    def tasks(self, job: Job, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        return self.open().tasks(job, rows)

    def decode(self, job: Job, tasks: Sequence[DecodeTask]) -> list[Event]:
        """What became of each task; steps are not told."""
        return [event for event in self.open().decode(job, tasks) if isinstance(event, RowDone | RowFailed)]


@dataclass
class WorkerHandle:
    """A worker as the driver sees it: its actor, and the chunks it was given."""

    actor: Any
    busy: dict[Any, Chunk] = field(default_factory=dict)


class RayEngine:
    """An engine (`dllm.jobs.Engine`) of workers on a Ray cluster. Use it as a context manager.

    name, loading  as `dllm.load` takes them; a folder must be there on every node
    workers        how many
    cpus, gpus     of each; gpus None: 1 where the cluster has any, else 0
    retries        how many workers may die over a row before it counts as failed

    The cluster is the one that is connected already, or else that of RAY_ADDRESS, or else one that is started here and
    ends with the context. Raises ConfigError without Ray, or where the cluster is too small.
    """

    tokenizer: Any = None

    def __init__(
        self,
        name: str | Path,
        loading: Mapping[str, Any] | None = None,
        workers: int = 2,
        cpus: float = 1.0,
        gpus: float | None = None,
        retries: int = 3,
    ) -> None:
        self.check(workers, cpus, gpus)
        self.name = str(Path(name).resolve()) if Path(name).is_dir() else str(name)
        self.loading, self.retries = dict(loading or {}), retries
        self.workers, self.cpus, self.gpus = workers, cpus, gpus

    @staticmethod
    def check(workers: int, cpus: float, gpus: float | None) -> None:
        """Raise ConfigError for numbers that cannot be meant."""
        if workers < 1:
            raise ConfigError(f"--workers {workers}: must be at least 1")
        if not 0 <= cpus < math.inf:
            raise ConfigError(f"--cpus-per-worker {cpus}: must not be negative")
        if gpus is not None and not 0 <= gpus < math.inf:
            raise ConfigError(f"--gpus-per-worker {gpus}: must not be negative")

    def __enter__(self) -> RayEngine:
        self.ray = _import_ray()
        self.owner = not self.ray.is_initialized()
        if self.owner:
            _connect_cluster(self.ray, math.ceil(self.workers * self.cpus))
        try:
            self.demand()
            self.hands = [WorkerHandle(self.start()) for _ in range(self.workers)]
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self.hands:
            with suppress(Exception):  # a worker may be dead, and the cluster gone
                self.ray.kill(hand.actor)
        self.leave()

    def leave(self) -> None:
        """Leave the cluster, if we joined it."""
        if self.owner:
            self.ray.shutdown()

    def demand(self) -> None:
        """Settle the GPUs of a worker. Raises ConfigError where the cluster has not what the workers need."""
        have = self.ray.cluster_resources()
        if self.gpus is None:
            self.gpus = 1.0 if have.get("GPU", 0) else 0.0
        for option, kind, each in (("cpus", "CPU", self.cpus), ("gpus", "GPU", self.gpus)):
            if self.workers * each > have.get(kind, 0):
                raise ConfigError(
                    f"--workers {self.workers} with {each:g} {kind}s each: the cluster has {have.get(kind, 0):g}; "
                    f"lower --workers or --{option}-per-worker"
                )

    def start(self) -> Any:
        """A new worker."""
        threads = max(1, int(self.cpus)) if not self.gpus else 0
        made = self.ray.remote(_RayWorker).options(num_cpus=self.cpus, num_gpus=self.gpus)
        return made.remote(self.name, self.loading, threads)

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return self.ray.get([hand.actor.pid.remote() for hand in self.hands])

    def tasks(self, job: Job, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        """The rows that can be decoded, which a worker finds out: the driver holds no model."""
        for _ in range(self.retries):
            try:
                return self.get(self.hands[0].actor.tasks.remote(job, list(rows)))
            except WorkerDiedError:
                self.hands[0] = WorkerHandle(self.start())
        raise WorkerDiedError(f"{self.retries} workers died while they loaded {self.name}: is there memory for it?")

    def warm(self, job: Job, task: DecodeTask) -> None:
        """Every worker decodes the task."""
        for ref in [hand.actor.decode.remote(job, [task]) for hand in self.hands]:
            with suppress(WorkerDiedError):  # found out, and replaced, by the first chunk that it is given
                self.get(ref)

    def decode(self, job: Job, tasks: Sequence[DecodeTask]) -> Iterator[Event]:
        """What becomes of tasks, in their order."""
        line = ChunkQueue(
            list(split_tasks_into_chunks(tasks, job.batch_size, self.workers)), self.retries, AHEAD * self.workers
        )
        for hand in self.hands:
            hand.busy.clear()  # of a job that was broken off
        while line.order:
            self.hand_out(job, line)
            self.collect(line)
            yield from line.told()

    def hand_out(self, job: Job, line: ChunkQueue) -> None:
        """Give chunks to the workers that have few."""
        while len((hand := min(self.hands, key=lambda one: len(one.busy))).busy) < QUEUED:
            chunk = line.next()
            if chunk is None:
                return
            hand.busy[hand.actor.decode.remote(job, chunk.tasks)] = chunk

    def collect(self, line: ChunkQueue) -> None:
        """Wait for a worker to be done with a chunk, or to die: then another takes its place."""
        (ref,), _ = self.ray.wait([ref for hand in self.hands for ref in hand.busy], num_returns=1)
        place = next(i for i, hand in enumerate(self.hands) if ref in hand.busy)
        busy = self.hands[place].busy
        try:
            line.done(busy[ref], self.get(ref))
            del busy[ref]
        except WorkerDiedError:
            self.hands[place] = WorkerHandle(self.start())
            self.bury(busy, line)

    def bury(self, busy: dict[Any, Chunk], line: ChunkQueue) -> None:
        """Take back what a dead worker had; the first that it did not finish is what it died over."""
        blamed = False
        for ref, chunk in busy.items():
            try:
                line.done(chunk, self.get(ref))
            except WorkerDiedError:
                chunk.deaths += not blamed
                blamed = True
                line.back(chunk)

    def get(self, ref: Any) -> Any:
        """What a worker returned. Raises what it raised, or WorkerDiedError."""
        from ray import exceptions

        try:
            return self.ray.get(ref)
        except exceptions.RayTaskError as error:
            raise error.cause from None
        except exceptions.RayError as error:
            raise WorkerDiedError(str(error).splitlines()[0]) from None


def _import_ray() -> Any:
    """Ray. Raises ConfigError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("Ray is not installed: pip install 'dllm[ray]'") from None
    return ray


def _connect_cluster(ray: Any, cpus: int) -> None:
    """Join the cluster of RAY_ADDRESS, or start one here with at least so many CPUs. Raises ConfigError."""
    address = os.environ.get("RAY_ADDRESS")
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        own = {"num_cpus": max(cpus, os.cpu_count() or 1), "include_dashboard": False, "object_store_memory": STORE}
        ray.init("local", **own, **quietly)
        return
    try:
        ray.init(address, **quietly)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"RAY_ADDRESS={address}: no cluster there ({' '.join(str(error).split())})") from None
