"""Checking a trace: its certificates are compared with the theory, and its results with what its steps did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dllm.tracing.reading import Trace, TraceRun
from dllm.tracing.replaying import ReplayedCanvas, replay_run
from dllm.tracing.rows import find_certified_rows


@dataclass(frozen=True)
class TraceCheckResult:
    """The outcome of a check.

    Attributes:
        steps: Number of rows of steps that were checked.
        parallel: Number of these rows that decided two or more tokens together.
        certified: Number of those whose certificate holds when it is computed again from the recorded p1 and p2.
        results: Number of results that were compared with what the steps wrote.
        faults: Descriptions of what does not agree; empty if everything does.
    """

    steps: int
    parallel: int
    certified: int
    results: int
    faults: tuple[str, ...]


def check_trace(trace: Trace) -> TraceCheckResult:
    """Check the certificates and the results of a trace.

    Every certificate (`dllm.theory.is_certified`) is computed again from what was recorded, the canvas is replayed, and
    both are compared with the certificates and results in the trace.
    """
    steps, parallel, certified, results, faults = 0, 0, 0, 0, list[str]()
    for number, run in enumerate(trace.runs):
        last: dict[int, ReplayedCanvas] = {}
        for step, row, canvas in replay_run(run):
            where = f"run {number}, step {step['step']}, request {row['request']}"
            faults += [f"{where}: {fault}" for fault in _find_row_faults(row)]
            steps, parallel, certified = steps + 1, parallel + _is_parallel(row), certified + _is_certified(row)
            last[row["request"]] = canvas
        for result in run.results:
            results += 1
            where = f"run {number}, request {result['request']}"
            canvas = last.get(result["request"]) or _make_blank_canvas(run, result["request"])
            faults += [f"{where}: {fault}" for fault in _find_result_faults(result, canvas)]
    return TraceCheckResult(steps, parallel, certified, results, tuple(faults))


def _make_blank_canvas(run: TraceRun, place: int) -> ReplayedCanvas:
    """Make the canvas of a request for which there are no steps."""
    return ReplayedCanvas.blank(run.requests[place], run.columns)


def _find_new_columns(row: dict[str, Any]) -> list[int]:
    """Find the columns that the step decided for the first time, or again after a revoke."""
    replaced = set(row.get("replaced", ()))
    return [column for column in row["commit"] if column not in replaced]


def _is_parallel(row: dict[str, Any]) -> bool:
    """Return whether a row decided two or more tokens together."""
    return len(_find_new_columns(row)) >= 2


def _is_certified(row: dict[str, Any]) -> bool:
    """Return whether the tokens that a row decided are provably those of greedy joint decoding."""
    new = set(_find_new_columns(row))
    if len(new) < 2 or not row["fresh"]:
        return False
    modes = row.get("mode", row["tokens"])
    p1, p2 = (torch.tensor([row[name]], dtype=torch.float32) for name in ("p1", "p2"))
    tokens, mode = torch.tensor([row["tokens"]]), torch.tensor([modes])
    return bool(find_certified_rows(tokens, mode, p1, p2, torch.tensor([[column in new for column in row["columns"]]])))


def _find_row_faults(row: dict[str, Any]) -> Iterator[str]:
    """Describe what a row records of itself that does not follow from its other fields."""
    if row["parallel"] != _is_parallel(row):
        yield f"says parallel={row['parallel']}, and decided {len(_find_new_columns(row))} columns"
    if row["certified"] != _is_certified(row):
        yield f"says certified={row['certified']}, and its probabilities say {_is_certified(row)}"


def _find_result_faults(result: dict[str, Any], canvas: ReplayedCanvas) -> Iterator[str]:
    """Describe what a result records that the replayed canvas does not hold."""
    count = len(result["output_ids"])
    own = [column for column, given in enumerate(canvas.given) if not given][:count]
    for name, there in (
        ("output_ids", [canvas.tokens[column] for column in own]),
        ("when", [canvas.when[column] for column in own]),
        ("parallel", sum(canvas.parallel[column] for column in own)),
        ("certified", sum(canvas.certified[column] for column in own)),
        ("nfe", canvas.nfe),
    ):
        if result[name] != there:
            yield f"its result has {name} {result[name]}, and its steps wrote {there}"
