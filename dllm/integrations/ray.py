"""Decoding on a Ray cluster: workers hold a model each, and the death of one loses or repeats no row (extra `ray`).

Rows go to the workers in small chunks, never more than a few ahead of the row that is written next, and come back in
the order of their job, so that a job writes the same file as it would in one process. Only the driver writes. When a
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
"""Chunks that a worker has at a time; one of them waits, so that the worker is never idle."""
AHEAD = 4
"""Chunks per worker by which the fastest may be ahead of the first chunk that is not done."""
STORE = 128 * 2**20
"""Bytes of the object store of a cluster that is started here: nothing but rows passes through it."""


class _RayWorker:
    """The code of an actor: a local engine, opened on first use so that its errors reach the driver.

    Args:
        name: Checkpoint, as `dllm.load` takes it.
        loading: Further arguments of `dllm.load`.
        threads: Threads of PyTorch; 0 leaves their number to it.
    """

    def __init__(self, name: str, loading: Mapping[str, Any], threads: int) -> None:
        import torch

        self.engine, self.loaded = LocalEngine(name, loading), False
        if threads:
            torch.set_num_threads(threads)

    def _open(self) -> LocalEngine:
        """Return the engine, which loads the checkpoint on the first call."""
        if not self.loaded:
            self.engine.__enter__()
            self.loaded = True
        return self.engine

    def pid(self) -> int:
        """Return the process id of the worker."""
        return os.getpid()

    def tasks(self, job: Job, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        """Turn rows into tasks, and report the rows that cannot be decoded."""
        return self._open().tasks(job, rows)

    def decode(self, job: Job, tasks: Sequence[DecodeTask]) -> list[Event]:
        """Return the result or the error of each task; single steps stay on the worker."""
        return [event for event in self._open().decode(job, tasks) if isinstance(event, RowDone | RowFailed)]


@dataclass
class WorkerHandle:
    """A worker as the driver sees it.

    Attributes:
        actor: Handle of the Ray actor.
        busy: Chunks that it was given, by the reference to their result, oldest first.
    """

    actor: Any
    busy: dict[Any, Chunk] = field(default_factory=dict)


class RayEngine:
    """An engine (`dllm.jobs.JobEngine`) of workers on a Ray cluster. Use it as a context manager.

    The cluster is the one that is connected already, or else that of RAY_ADDRESS, or else one that is started here and
    ends with the context.

    Args:
        name: Checkpoint, as `dllm.load` takes it; a folder must exist on every node.
        loading: Further arguments of `dllm.load`.
        workers: Number of workers.
        cpus: CPUs of each worker.
        gpus: GPUs of each worker; None: 1 where the cluster has any, else 0.
        retries: Number of workers that may die over a row before it counts as failed.

    Attributes:
        tokenizer: None, since the driver holds no model.
        handles: The running workers.
        owns_connection: True if the context joined the cluster and has to leave it.

    Raises:
        ConfigError: If Ray is missing, or if the cluster is too small.
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
        """Raise ConfigError for numbers out of their range."""
        if workers < 1:
            raise ConfigError(f"--workers {workers}: must be at least 1")
        if not 0 <= cpus < math.inf:
            raise ConfigError(f"--cpus-per-worker {cpus}: must not be negative")
        if gpus is not None and not 0 <= gpus < math.inf:
            raise ConfigError(f"--gpus-per-worker {gpus}: must not be negative")

    def __enter__(self) -> RayEngine:
        self.ray = _import_ray()
        self.owns_connection = not self.ray.is_initialized()
        if self.owns_connection:
            _connect_cluster(self.ray, math.ceil(self.workers * self.cpus))
        try:
            self._check_resources()
            self.handles = [WorkerHandle(self._start_worker()) for _ in range(self.workers)]
        except BaseException:
            self._disconnect()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            with suppress(Exception):  # a worker may be dead, and the cluster gone
                self.ray.kill(handle.actor)
        self._disconnect()

    def _disconnect(self) -> None:
        """Leave the cluster if this context joined it."""
        if self.owns_connection:
            self.ray.shutdown()

    def _check_resources(self) -> None:
        """Settle the number of GPUs of a worker; raise ConfigError if the cluster lacks what the workers need."""
        have = self.ray.cluster_resources()
        if self.gpus is None:
            self.gpus = 1.0 if have.get("GPU", 0) else 0.0
        for option, kind, each in (("cpus", "CPU", self.cpus), ("gpus", "GPU", self.gpus)):
            if self.workers * each > have.get(kind, 0):
                raise ConfigError(
                    f"--workers {self.workers} with {each:g} {kind}s each: the cluster has {have.get(kind, 0):g}; "
                    f"lower --workers or --{option}-per-worker"
                )

    def _start_worker(self) -> Any:
        """Start a new worker and return its actor."""
        threads = max(1, int(self.cpus)) if not self.gpus else 0
        made = self.ray.remote(_RayWorker).options(num_cpus=self.cpus, num_gpus=self.gpus)
        return made.remote(self.name, self.loading, threads)

    def pids(self) -> list[int]:
        """Return the process ids of the workers."""
        pids: list[int] = self.ray.get([handle.actor.pid.remote() for handle in self.handles])
        return pids

    def tasks(self, job: Job, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        """Turn rows into tasks on a worker, since the driver holds no model.

        Returns:
            The tasks of the rows that can be decoded, and the problems of the others.

        Raises:
            WorkerDiedError: If worker after worker dies while it loads the checkpoint.
        """
        for _ in range(self.retries):
            try:
                found: tuple[list[DecodeTask], list[RowProblem]]
                found = self._fetch(self.handles[0].actor.tasks.remote(job, list(rows)))
                return found
            except WorkerDiedError:
                self.handles[0] = WorkerHandle(self._start_worker())
        raise WorkerDiedError(f"{self.retries} workers died while they loaded {self.name}: is there memory for it?")

    def warm(self, job: Job, task: DecodeTask) -> None:
        """Let every worker decode the task."""
        for ref in [handle.actor.decode.remote(job, [task]) for handle in self.handles]:
            with suppress(WorkerDiedError):  # the first chunk that it is given will show this, and replace it
                self._fetch(ref)

    def decode(self, job: Job, tasks: Sequence[DecodeTask]) -> Iterator[Event]:
        """Decode tasks and yield their results and errors in the order of the tasks."""
        queue = ChunkQueue(
            list(split_tasks_into_chunks(tasks, job.batch_size, self.workers)), self.retries, AHEAD * self.workers
        )
        for handle in self.handles:
            handle.busy.clear()  # chunks of an earlier job whose caller stopped before its end
        while queue.order:
            self._assign_chunks(job, queue)
            self._collect_result(queue)
            yield from queue.told()

    def _assign_chunks(self, job: Job, queue: ChunkQueue) -> None:
        """Give chunks to the workers that have fewer than `QUEUED`."""
        while len((handle := min(self.handles, key=lambda one: len(one.busy))).busy) < QUEUED:
            chunk = queue.next()
            if chunk is None:
                return
            handle.busy[handle.actor.decode.remote(job, chunk.tasks)] = chunk

    def _collect_result(self, queue: ChunkQueue) -> None:
        """Wait until a worker finishes a chunk or dies; replace a dead one."""
        (ref,), _ = self.ray.wait([ref for handle in self.handles for ref in handle.busy], num_returns=1)
        place = next(i for i, handle in enumerate(self.handles) if ref in handle.busy)
        busy = self.handles[place].busy
        try:
            queue.done(busy[ref], self._fetch(ref))
            del busy[ref]
        except WorkerDiedError:
            self.handles[place] = WorkerHandle(self._start_worker())
            self._return_chunks(busy, queue)

    def _return_chunks(self, busy: dict[Any, Chunk], queue: ChunkQueue) -> None:
        """Return the chunks of a dead worker to the queue, except those that it had finished."""
        blamed = False
        for ref, chunk in busy.items():
            try:
                queue.done(chunk, self._fetch(ref))
            except WorkerDiedError:
                # A worker runs its chunks in order, so it died over the first one that it did not finish.
                chunk.deaths += not blamed
                blamed = True
                queue.back(chunk)

    def _fetch(self, ref: Any) -> Any:
        """Return the result of a remote call.

        Raises:
            WorkerDiedError: If the worker died.
            Exception: The worker's own exception, if the call raised one.
        """
        from ray import exceptions

        try:
            return self.ray.get(ref)
        except exceptions.RayTaskError as error:
            raise error.cause from None
        except exceptions.RayError as error:
            raise WorkerDiedError(str(error).splitlines()[0]) from None


def _import_ray() -> Any:
    """Import Ray without its usage statistics; raise ConfigError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker without a GPU of its own then still sees the ones that the driver sees.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("Ray is not installed: pip install 'dllm[ray]'") from None
    return ray


def _connect_cluster(ray: Any, cpus: int) -> None:
    """Join the cluster of RAY_ADDRESS, or start one here with at least `cpus` CPUs.

    Raises:
        ConfigError: If there is no cluster at that address.
    """
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
