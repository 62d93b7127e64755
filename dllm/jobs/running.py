"""Decoding the rows of a job: rows of one plan share a batch, and results come as soon as they are final."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from dllm.engine.autoregressive import Autoregressive, generate_autoregressively
from dllm.engine.loop import steps
from dllm.engine.results import Collector, Result, split_into_batches
from dllm.errors import DllmError, NumericsError
from dllm.jobs.plan import DecodeTask
from dllm.metrics import Provenance
from dllm.models.autoregressive import AutoregressiveModel
from dllm.strategy import Strategy
from dllm.types import Step


class BatchStep(NamedTuple):
    """A denoising step of a batch.

    Attributes:
        batch: The tasks among which `step.place` counts; not all of them need have a row in the batch yet.
        step: The step.
    """

    batch: Sequence[DecodeTask]
    step: Step


class RowDone(NamedTuple):
    """A row that is final.

    Attributes:
        task: The task of the row.
        result: Its result.
        provenance: Model, device and versions that made it.
    """

    task: DecodeTask
    result: Result
    provenance: Provenance | None = None


class RowFailed(NamedTuple):
    """A row that could not be decoded.

    Attributes:
        task: The task of the row.
        error: The reason.
    """

    task: DecodeTask
    error: DllmError


Event = BatchStep | RowDone | RowFailed


def decode_tasks(model: Any, tasks: Sequence[DecodeTask], batch_size: int) -> Iterator[Event]:
    """Decode tasks in their order, `batch_size` at a time; a row is done as soon as it and all rows before it are.

    Neighbours of equal plan share a batch, where a finished row gives its place to the next one. Logits that are not
    numbers fail the row that has them and no other.
    """
    for _, group in groupby(tasks, key=batch_key):
        yield from _decode_group(model, list(group), batch_size)


def batch_key(task: DecodeTask) -> Hashable:
    """Return what tasks must have in common to share a batch."""
    if isinstance(task.plan, Strategy):
        return task.plan
    return task.plan, task.request.max_new_tokens, task.request.stop_ids


def _decode_group(model: Any, tasks: Sequence[DecodeTask], batch_size: int) -> Iterator[Event]:
    """Decode tasks of one plan; if one of them fails, the others go on without it."""
    if isinstance(model, AutoregressiveModel):
        yield from _generate_group(model, tasks, batch_size)
        return
    left = list(tasks)
    while left:
        done = 0
        try:
            for event in _denoise_group(model, left, batch_size):
                done += isinstance(event, RowDone)
                yield event
            return
        except NumericsError as error:
            # The error ends the whole batch, so the rows that are neither done nor to blame start again. Their results
            # are the same: a row does not depend on its neighbours.
            yield from (RowFailed(left[i], error) for i in error.prompts)
            left = [task for i, task in enumerate(left) if i >= done and i not in error.prompts]


def _generate_group(model: AutoregressiveModel, tasks: Sequence[DecodeTask], batch_size: int) -> Iterator[Event]:
    """Generate the rows of a group with a plain causal model, batch by batch."""
    plan = tasks[0].plan
    assert isinstance(plan, Autoregressive)
    provenance = Provenance.of(model)
    batches = split_into_batches([task.request for task in tasks], batch_size)
    results = (result for batch in batches for result in generate_autoregressively(model, batch, plan))
    yield from (RowDone(task, result, provenance) for task, result in zip(tasks, results, strict=True))


def _denoise_group(model: Any, tasks: Sequence[DecodeTask], batch_size: int) -> Iterator[Event]:
    """Yield the steps of a group, and each row's result once no row before it is open."""
    requests, strategy = [task.request for task in tasks], tasks[0].plan
    assert isinstance(strategy, Strategy)
    collector = Collector(model, requests, strategy)
    done, provenance = 0, Provenance.of(model)
    for step in steps(model, requests, strategy, batch_size=batch_size):
        if collector.add(step):
            while done in collector.found:
                yield RowDone(tasks[done], collector.found[done], provenance)
                done += 1
        yield BatchStep(tasks, step)
    rest = zip(tasks[done:], collector.results()[done:], strict=True)
    yield from (RowDone(task, result, provenance) for task, result in rest)
