"""Checking a trace: its certificates by the theory, and its results by what its steps did."""

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
    """What a check found.

    steps      rows of steps that were looked at
    parallel   of these, those that decided two or more together
    certified  of those, the ones whose certificate holds when it is computed again from the recorded p1 and p2
    results    results that were compared with what the steps wrote
    faults     what does not agree, in words; empty where all is well
    """

    steps: int
    parallel: int
    certified: int
    results: int
    faults: tuple[str, ...]


def check_trace(trace: Trace) -> TraceCheckResult:
    """Recompute every certificate (`dllm.theory.certified`) from what was recorded, replay the canvas, and compare both
    with what the trace says of its steps and results."""
    steps, parallel, certified, results, faults = 0, 0, 0, 0, list[str]()
    for number, run in enumerate(trace.runs):
        last: dict[int, ReplayedCanvas] = {}
        for step, row, board in replay_run(run):
            where = f"run {number}, step {step['step']}, request {row['request']}"
            faults += [f"{where}: {fault}" for fault in _find_row_faults(row)]
            steps, parallel, certified = steps + 1, parallel + _is_parallel(row), certified + _is_certified(row)
            last[row["request"]] = board
        for result in run.results:
            results += 1
            where = f"run {number}, request {result['request']}"
            board = last.get(result["request"]) or _make_blank_canvas(run, result["request"])
            faults += [f"{where}: {fault}" for fault in _find_result_faults(result, board)]
    return TraceCheckResult(steps, parallel, certified, results, tuple(faults))


def _make_blank_canvas(run: TraceRun, place: int) -> ReplayedCanvas:
    return ReplayedCanvas.blank(run.requests[place], run.columns)


def _find_new_columns(row: dict[str, Any]) -> list[int]:
    """Columns that the step decided for the first time, or again after a revoke."""
    replaced = set(row.get("replaced", ()))
    return [column for column in row["commit"] if column not in replaced]


def _is_parallel(row: dict[str, Any]) -> bool:
    return len(_find_new_columns(row)) >= 2


def _is_certified(row: dict[str, Any]) -> bool:
    """Whether the tokens that a row decided are provably what greedy joint decoding writes."""
    new = set(_find_new_columns(row))
    if len(new) < 2 or not row["fresh"]:
        return False
    modes = row.get("mode", row["tokens"])
    p1, p2 = (torch.tensor([row[name]], dtype=torch.float32) for name in ("p1", "p2"))
    tokens, mode = torch.tensor([row["tokens"]]), torch.tensor([modes])
    return bool(find_certified_rows(tokens, mode, p1, p2, torch.tensor([[column in new for column in row["columns"]]])))


def _find_row_faults(row: dict[str, Any]) -> Iterator[str]:
    """What a row says of itself that is not so."""
    if row["parallel"] != _is_parallel(row):
        yield f"says parallel={row['parallel']}, and decided {len(_find_new_columns(row))} columns"
    if row["certified"] != _is_certified(row):
        yield f"says certified={row['certified']}, and its probabilities say {_is_certified(row)}"


def _find_result_faults(result: dict[str, Any], board: ReplayedCanvas) -> Iterator[str]:
    """What a result says that the canvas does not hold."""
    count = len(result["output_ids"])
    own = [column for column, given in enumerate(board.given) if not given][:count]
    for name, there in (
        ("output_ids", [board.tokens[column] for column in own]),
        ("when", [board.when[column] for column in own]),
        ("parallel", sum(board.parallel[column] for column in own)),
        ("certified", sum(board.certified[column] for column in own)),
        ("nfe", board.nfe),
    ):
        if result[name] != there:
            yield f"its result has {name} {result[name]}, and its steps wrote {there}"
