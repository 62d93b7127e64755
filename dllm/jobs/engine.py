"""Engines that carry out jobs: in this process, spread over processes, or on a cluster (`dllm.integrations.ray`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dllm.jobs.plan import DecodeTask, Job
from dllm.jobs.rows import PromptRow, RowProblem
from dllm.jobs.running import Event, decode_tasks
from dllm.models.checkpoint import CheckpointFiles
from dllm.models.parallel import broadcast_from_leader, current_process, leave_process_group


class JobEngine(Protocol):
    """A loaded checkpoint that carries out jobs, one after the other. Use it as a context manager.

    Attributes:
        tokenizer: Tokenizer of the checkpoint, to show what is written; None if there is none.
    """

    tokenizer: Any

    def __enter__(self) -> JobEngine: ...

    def __exit__(self, *_: object) -> None: ...

    def tasks(self, job: Job, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        """Return the rows that can be decoded, and what is wrong with the others."""

    def warm(self, job: Job, task: DecodeTask) -> None:
        """Decode a task and discard the result, so that what is timed afterwards finds everything loaded."""

    def decode(self, job: Job, tasks: Sequence[DecodeTask]) -> Iterator[Event]:
        """Yield what becomes of tasks, in their order; see `dllm.jobs.decode_tasks`."""


class LocalEngine:
    """An engine that decodes in this process.

    Args:
        name: Checkpoint, as `dllm.load` takes it.
        loading: Further arguments of `dllm.load`.
    """

    def __init__(self, name: str | Path | CheckpointFiles, loading: Mapping[str, Any] | None = None) -> None:
        self.name, self.loading = name, dict(loading or {})

    def __enter__(self) -> LocalEngine:
        from dllm.models import load

        self.model = load(self.name, **self.loading)
        self.tokenizer = self.model.tokenizer
        return self

    def __exit__(self, *_: object) -> None:
        del self.model

    def tasks(self, job: Job, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        return job.tasks(job.guided(self.model), rows)

    def warm(self, job: Job, task: DecodeTask) -> None:
        for _ in self.decode(job, [task]):
            pass

    def decode(self, job: Job, tasks: Sequence[DecodeTask]) -> Iterator[Event]:
        return decode_tasks(job.guided(self.model), tasks, job.batch_size)


class TensorParallelEngine(LocalEngine):
    """An engine that decodes in all processes that `torchrun` started, each with a slice of the model.

    All processes are given the same rows. They decode the tasks that the leading process is given, because only the
    leading process knows which results its files hold already.
    """

    def __enter__(self) -> TensorParallelEngine:
        self.loading["tensor_parallel"] = True
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        leave_process_group()

    def decode(self, job: Job, tasks: Sequence[DecodeTask]) -> Iterator[Event]:
        # Every process must run the same forwards in the same order, or their collective operations never meet.
        places = broadcast_from_leader(
            [task.row.place for task in tasks] if current_process().leads else [], self.model.device
        )
        task_at_place = {task.row.place: task for task in tasks}
        return super().decode(job, [task_at_place[place] for place in places])
