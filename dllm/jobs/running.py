"""The rows of a job decoded: which share a batch, and results as soon as they are final."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from dllm.engine.autoregressive import Autoregressive, generate_autoregressively
from dllm.engine.loop import steps
from dllm.engine.results import Collector, Result
from dllm.errors import DllmError, NumericsError
from dllm.jobs.plan import DecodeTask
from dllm.metrics import Provenance
from dllm.models.autoregressive import AutoregressiveModel
from dllm.strategy import Strategy
from dllm.types import Step


class BatchStep(NamedTuple):
    """A step of a batch."""

    batch: Sequence[DecodeTask]
    step: Step


class RowDone(NamedTuple):
    """A row is final.

    provenance  what it was made on
    """

    task: DecodeTask
    result: Result
    provenance: Provenance | None = None


class RowFailed(NamedTuple):
    """A row could not be decoded."""

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


def batch_key(task: DecodeTask) -> Any:
    """What tasks must have in common to share a batch."""
    if isinstance(task.plan, Strategy):
        return task.plan
    return task.plan, task.request.max_new_tokens, task.request.stop_ids


def split_tasks(tasks: Sequence[DecodeTask], size: int) -> Iterator[Sequence[DecodeTask]]:
    """Tasks in order, `size` at a time."""
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def _decode_group(model: Any, tasks: Sequence[DecodeTask], batch_size: int) -> Iterator[Event]:
    """Decode tasks of one plan; where one of them fails, the others go on without it."""
    if isinstance(model, AutoregressiveModel):
        plan = tasks[0].plan
        assert isinstance(plan, Autoregressive)
        made_on = Provenance.of(model)
        for batch in split_tasks(tasks, batch_size):
            results = generate_autoregressively(model, [task.request for task in batch], plan)
            yield from (RowDone(task, result, made_on) for task, result in zip(batch, results, strict=True))
        return
    left = list(tasks)
    while left:
        told = 0
        try:
            for event in _denoise_group(model, left, batch_size):
                told += isinstance(event, RowDone)
                yield event
            return
        except NumericsError as error:
            yield from (RowFailed(left[i], error) for i in error.prompts)
            left = [task for i, task in enumerate(left) if i >= told and i not in error.prompts]


def _denoise_group(model: Any, tasks: Sequence[DecodeTask], batch_size: int) -> Iterator[Event]:
    """The steps of a group, and each row's result once no row before it is open."""
    requests, strategy = [task.request for task in tasks], tasks[0].plan
    assert isinstance(strategy, Strategy)
    collector = Collector(model, requests, strategy)
    told, made_on = 0, Provenance.of(model)
    for step in steps(model, requests, strategy, batch_size=batch_size):
        if collector.add(step):
            while told in collector.found:
                yield RowDone(tasks[told], collector.found[told], made_on)
                told += 1
        yield BatchStep(tasks, step)
    rest = zip(tasks[told:], collector.results()[told:], strict=True)
    yield from (RowDone(task, result, made_on) for task, result in rest)
