"""Reading a trace: every line is checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllm.errors import DllmError
from dllm.tracing.recording import FORMAT

NEEDED = {
    "run": ("strategy", "columns", "requests"),
    "request": ("prompt", "max_new_tokens", "holes"),
    "row": ("request", "nfe", "fresh", "range", "columns", "tokens", "p1", "p2", "commit", "parallel", "certified"),
    "result": ("request", "text", "output_ids", "when", "nfe", "parallel", "certified"),
}
"""Fields that each kind of object in a trace must have."""


class TraceError(DllmError):
    """A file that is not a trace, is damaged, or is newer than this version can read."""


@dataclass
class TraceRun:
    """The record of requests that were decoded together; `dllm.tracing` describes the fields of its objects.

    Attributes:
        strategy: Repr of the strategy.
        columns: Width of the canvas.
        requests: Requests, in order.
        steps: Steps in order, each with its rows.
        results: Results of the requests that were finished.
    """

    strategy: str
    columns: int
    requests: list[dict[str, Any]]
    steps: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Trace:
    """A trace as it was written; `dllm.tracing` describes its fields.

    Attributes:
        header: First line of the file.
        runs: Runs, in order.
        pieces: Text of each token that occurs, by its id.
    """

    header: dict[str, Any]
    runs: list[TraceRun]
    pieces: dict[int, str]


def read_trace(path: str | Path) -> Trace:
    """Read the trace in a file.

    Raises:
        OSError: The file cannot be read.
        TraceError: The file is not a whole trace; the message names the line.
    """
    with Path(path).open("rb") as file:
        return _parse_trace(file, str(path))


def _parse_trace(lines: Iterable[bytes], name: str) -> Trace:
    """Parse the lines of a file called `name`. Raises TraceError if they are not a whole trace."""
    trace: Trace | None = None
    ended: int | None = None
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        value = _decode_line(line, where)
        if trace is None:
            trace = Trace(_check_header(value, name), [], {})
        elif ended is not None:
            raise TraceError(f"{where}: comes behind the end of the trace")
        elif "end" in value:
            ended = value["end"]
        else:
            _add_line(trace, value, where)
    if trace is None:
        raise TraceError(f"{name} is empty: it is no trace")
    count = sum(len(run.steps) for run in trace.runs)
    if ended != count:
        raise TraceError(f"{name} has {count} steps and ends too early: it was cut short; record it again")
    return trace


def _decode_line(line: bytes, where: str) -> dict[str, Any]:
    """Decode the object of a line. Raises TraceError if it is not one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise TraceError(f"{where}: not JSON; this is no trace of dllm, or it is damaged") from None
    if not isinstance(value, dict):
        raise TraceError(f"{where}: not an object of JSON; this is no trace of dllm, or it is damaged")
    return value


def _check_header(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the header. Raises TraceError if it is not one that this version can read."""
    version = value.get("dllm_trace")
    if not isinstance(version, int):
        raise TraceError(f"{name} is no trace of dllm: record one with `dllm decode --trace FILE`")
    if version > FORMAT:
        raise TraceError(f"{name} has format {version}, and this dllm reads up to {FORMAT}: update dllm")
    return value


def _add_line(trace: Trace, value: dict[str, Any], where: str) -> None:
    """Add a run, a step or a result to a trace. Raises TraceError if the line is none of them."""
    try:
        trace.pieces |= {int(token): str(piece) for token, piece in value.get("pieces", {}).items()}
        if "run" in value:
            run = _require_fields(value["run"], "run")
            for request in run["requests"]:
                _require_fields(request, "request")
            trace.runs.append(TraceRun(str(run["strategy"]), int(run["columns"]), list(run["requests"])))
        elif "result" in value:
            trace.runs[-1].results.append(_require_fields(value["result"], "result"))
        else:
            for row in value["rows"]:
                _check_row(_require_fields(row, "row"), trace.runs[-1])
            trace.runs[-1].steps.append(value)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(f"{where}: not a line of a trace ({error!r}); the file is damaged") from None


def _require_fields(value: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return an object of a trace. Raises KeyError if one of the fields that its kind needs is missing."""
    for name in NEEDED[kind]:
        value[name]
    return value


def _check_row(row: dict[str, Any], run: TraceRun) -> None:
    """Raise ValueError or IndexError for a row that refers to a request or a column outside its run."""
    run.requests[row["request"]]
    lists = [row[name] for name in ("columns", "tokens", "p1", "p2")]
    if len(set(map(len, lists))) != 1:
        raise ValueError("its lists differ in length")
    if any(not 0 <= column < run.columns for column in (*row["columns"], *row["commit"], *row.get("revoke", ()))):
        raise ValueError("a column outside the canvas")
    if not set(row["commit"]) <= set(row["columns"]):
        raise ValueError("a commit of what was not predicted")
