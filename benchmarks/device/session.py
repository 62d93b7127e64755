"""A session: measurements one after the other within a budget, each line of results on disk as soon as it is known."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from benchmarks.device.budget import Budget, OutOfTime
from benchmarks.device.preflight import ROOT

Row = dict[str, Any]

LIMIT = 2**19
"""Bytes of one script's results at most, so that both together stay within 1 MiB."""

RESERVE = 2**13
"""Bytes of these that are kept for the lines that say what became of each measurement."""


@dataclass(frozen=True)
class Measurement:
    """One thing to measure.

    Attributes:
        name: What the results call it.
        seconds: What it takes on the device that it is meant for, at least; with less left it is skipped.
        rows: Measures, and yields results as they come. It is given the budget that it should stay within.
        share: Part of the whole budget that it should stay within; None: it takes what it takes.
        like: An earlier measurement that takes about as long: what that took replaces `seconds`, if it was done.
    """

    name: str
    seconds: float
    rows: Callable[[Budget], Iterator[Row]]
    share: float | None = None
    like: str | None = None


@dataclass
class Results:
    """A file of JSON lines that is whole after every line, and never longer than it may be."""

    path: Path
    limit: int = LIMIT
    left_out: int = 0
    written: int = 0
    file: IO[str] = field(init=False)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("w")

    def write(self, row: Row, always: bool = False) -> None:
        """Add a line; where there is no room for it, count it as left out. `always` may use the reserve."""
        line = json.dumps(row) + "\n"
        if self.written + len(line) > self.limit - (0 if always else RESERVE):
            self.left_out += 1
            return
        self.written += len(line)
        self.file.write(line)
        self.file.flush()
        os.fsync(self.file.fileno())


def run(facts: Row, measurements: Sequence[Measurement], budget: Budget, output: Path) -> list[Row]:
    """Run measurements in order, as many as fit, and return what became of each.

    The file's first line holds the facts; then come rows with `measurement` and whatever was measured, and a row with
    `outcome` for each: done, skipped (it would not fit), cut off (the budget was spent) or failed (with the error;
    the others go on).
    """
    results = Results(output)
    results.write({"kind": "run", **facts, "budget": budget.seconds}, always=True)
    outcomes: list[Row] = []
    for measurement in measurements:
        for earlier in outcomes:
            if (earlier["measurement"], earlier["outcome"]) == (measurement.like, "done"):
                measurement = replace(measurement, seconds=earlier["seconds"])
        outcome = {"kind": "outcome", "measurement": measurement.name, **_attempt(measurement, budget, results)}
        results.write(outcome, always=True)
        outcomes.append(outcome)
        _say(outcome)
        _free_memory()
    results.write({"kind": "end", "seconds": budget.spent, "left_out": results.left_out}, always=True)
    sys.stderr.write(f"{budget.spent:.0f} of {budget.seconds:g} s; results: {output}\n")
    return outcomes


def _attempt(measurement: Measurement, budget: Budget, results: Results) -> Row:
    """Run one measurement, and report its outcome."""
    if budget.left < measurement.seconds:
        return {"outcome": "skipped", "needs": measurement.seconds, "left": round(budget.left, 1)}
    begun = time.monotonic()
    own = budget if measurement.share is None else budget.part(measurement.share)
    found: Row = {"outcome": "done"}
    try:
        with own.enforced():
            for row in measurement.rows(own):
                results.write({"kind": "row", "measurement": measurement.name, **row})
    except OutOfTime:
        found = {"outcome": "cut off"}
    except Exception as error:
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        found = {"outcome": "failed", "error": f"{type(error).__name__}: {error}"[:600], "where": where[-4:]}
    return {**found, "seconds": round(time.monotonic() - begun, 2)}


def failures(outcomes: Sequence[Row]) -> list[str]:
    """A line for each measurement that failed."""
    return [f"{row['measurement']}: {row['error']}" for row in outcomes if row["outcome"] == "failed"]


def leave(faults: Sequence[str]) -> None:
    """Leave the process: with exit code 0, or with 1 and the faults on stderr."""
    sys.stderr.writelines(f"FAULT {line}\n" for line in faults)
    raise SystemExit(bool(faults))


def facts(script: str, device: Any, **options: Any) -> Row:
    """Collect the provenance of the results."""
    import torch

    from dllm.metrics import _describe_device, package_versions

    cuda = device.type == "cuda"
    return {
        "script": script,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "device": _describe_device(device),
        "versions": package_versions(),
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        **options,
    }


def _commit() -> str:
    """The commit that is measured: `DLLM_COMMIT` where there is no repository (a tree that was carried)."""
    if told := os.environ.get("DLLM_COMMIT"):
        return told
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


def _free_memory() -> None:
    """Give back what a measurement held on the device, so that the next one has room."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _say(outcome: Row) -> None:
    more = {key: value for key, value in outcome.items() if key not in ("kind", "measurement", "outcome")}
    sys.stderr.write(f"{outcome['measurement']}: {outcome['outcome']} {json.dumps(more)}\n")
