"""Running a sweep: every cell that is not in the table yet is decoded, summarised and added to it.

A cell's samples lie in a file of their own, written row by row as `dllm decode --output` does, so that a sweep that is
killed and run again loses no finished row; the cell's row in the table is counted from that file alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from dllm import jobs
from dllm.errors import DllmError
from dllm.jobs import DecodeTask, JobEngine, Journal, RowProblem
from dllm.metrics import certified_share, tokens_per_forward, tokens_per_second
from dllm.sweeps.cells import Cell, SweepCheckpoint
from dllm.sweeps.grid import Sweep
from dllm.sweeps.intervals import wilson_interval
from dllm.sweeps.questions import Question
from dllm.sweeps.table import NAME, SweepTable

SAMPLES = "samples"
"""Name of the folder with the cells' own files, beside the table."""


class CellStarted(NamedTuple):
    """A cell is begun.

    Attributes:
        cell: The cell.
        rows: Number of its rows.
        kept: Number of its rows that are in its file already.
    """

    cell: Cell
    rows: int
    kept: int


class CellRowDecoded(NamedTuple):
    """A row of a cell has been decoded and is in the cell's file.

    Attributes:
        cell: The cell.
        more: Fields of its line that a sweep adds: answer, check, correct and wall_seconds.
    """

    cell: Cell
    more: dict[str, Any]


class CellFinished(NamedTuple):
    """A cell has been decoded.

    Attributes:
        cell: The cell.
        row: Its row of the table. Questions that could not be decoded count as wrong in it.
        problems: Questions that could not be decoded, and why.
    """

    cell: Cell
    row: dict[str, Any]
    problems: list[RowProblem]


class CellFailed(NamedTuple):
    """A cell could not be decoded and is not in the table.

    Attributes:
        cell: The cell.
        error: The reason.
    """

    cell: Cell
    error: DllmError


Event = CellStarted | CellRowDecoded | CellFinished | CellFailed


def run_sweep(sweep: Sweep, folder: Path, engine: Callable[[SweepCheckpoint], JobEngine]) -> Iterator[Event]:
    """Decode the cells that are not in the table of `folder` yet.

    Args:
        sweep: The cells.
        folder: Folder of the table and of the samples; created if it does not exist.
        engine: Function that opens a checkpoint. It is called once for all cells of a checkpoint, and not at all if
            none of them is left to do.

    Raises:
        ConfigError: A cell cannot work, or the folder holds something else. This is found before any work is done.
    """
    sweep.check()
    with SweepTable(folder / NAME) as table:
        (folder / SAMPLES).mkdir(exist_ok=True)
        todo = [cell for cell in sweep.cells if cell.key not in table]
        for checkpoint, cells in groupby(todo, key=lambda cell: cell.checkpoint):
            yield from _run_checkpoint(list(cells), folder, table, engine(checkpoint))


def _run_checkpoint(cells: list[Cell], folder: Path, table: SweepTable, engine: JobEngine) -> Iterator[Event]:
    """Decode the cells of one checkpoint; if one of them fails, the others are still decoded."""
    warm = False
    with ExitStack() as stack:
        try:
            stack.enter_context(engine)
        except DllmError as error:
            yield from (CellFailed(cell, error) for cell in cells)
            return
        for cell in cells:
            try:
                for event in _run_cell(cell, folder, engine, warm):
                    if isinstance(event, CellFinished):
                        table.append(event.row)
                    yield event
                warm = True
            except DllmError as error:
                yield CellFailed(cell, error)


def _run_cell(cell: Cell, folder: Path, engine: JobEngine, warm: bool) -> Iterator[Event]:
    """Decode the rows of a cell that are not in its file yet, and summarise the whole file."""
    questions = {question.row.place: question for question in cell.questions.read()}
    path = folder / SAMPLES / cell.file
    with Journal(path, cell.record()["checkpoint"] | {"seed": cell.job.seed, "cell": cell.key}) as journal:
        tasks, problems = engine.tasks(cell.job, [question.row for question in questions.values()])
        if not tasks:
            raise DllmError(f"no row can be decoded; line {problems[0].line}: {problems[0].message}")
        todo = journal.resume(tasks)
        yield CellStarted(cell, len(questions), len(tasks) - len(todo))
        if todo and not warm:
            engine.warm(cell.job, todo[0])
        last = time.perf_counter()
        for event in engine.decode(cell.job, todo):
            if isinstance(event, jobs.RowDone):
                now = time.perf_counter()
                more = _score_sample(questions[event.task.row.place], event) | {"wall_seconds": now - last}
                journal.write(event, more)
                last = time.perf_counter()  # again, so that the time for writing to the disk is not counted
                yield CellRowDecoded(cell, more)
            elif isinstance(event, jobs.RowFailed):
                problems.append(RowProblem(event.task.row.line, str(event.error)))
        # The file also has the rows of earlier, interrupted runs.
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    yield CellFinished(cell, _summarize_cell(cell, lines, tasks, list(questions.values())), problems)


def _score_sample(question: Question, done: jobs.RowDone) -> dict[str, Any]:
    """Return the fields of a sample's line that judge its text."""
    return {
        "answer": question.answer,
        "check": question.check,
        "correct": question.correct(done.result.text),
    }


def _summarize_cell(
    cell: Cell, lines: Sequence[Mapping[str, Any]], tasks: Sequence[DecodeTask], questions: Sequence[Question]
) -> dict[str, Any]:
    """Make the cell's row of the table from the lines of its file.

    The seconds of a cell are the sum over its rows of the wall time since the row before was written. Work that an
    interrupted run did for rows which it did not finish is therefore not counted.
    """
    scored = sum(question.check is not None for question in questions)
    correct = sum(line["correct"] is True for line in lines)
    low, high = wilson_interval(correct, scored) if scored else (None, None)
    tokens, nfe = sum(len(line["output_ids"]) for line in lines), sum(line["nfe"] for line in lines)
    parallel = sum(line["parallel"] for line in lines)
    certified = round(sum((line["certified"] or 0) * line["parallel"] for line in lines))
    seconds = sum(line["wall_seconds"] for line in lines)
    first = lines[0] if lines else {}
    return {
        "cell": cell.key,
        "model": cell.checkpoint.title,
        "prompts": cell.questions.name,
        "name": cell.label,
        "rows": len(questions),
        "failed": len(questions) - len(lines),
        "scored": scored,
        "correct": correct,
        "accuracy": correct / scored if scored else None,
        "accuracy_low": low,
        "accuracy_high": high,
        "tokens": tokens,
        "nfe": nfe,
        "tokens_per_forward": tokens_per_forward(tokens, nfe),
        "queries": sum(line["queries"] for line in lines),
        "parallel": parallel,
        "certified": certified,
        "certified_share": certified_share(certified, parallel),
        "seconds": seconds,
        "tokens_per_second": tokens_per_second(tokens, seconds),
        "max_new_tokens": cell.job.max_new_tokens,
        "seed": cell.job.seed,
        "batch_size": cell.job.batch_size,
        "options": dict(cell.given),
        "strategy": repr(tasks[0].plan),
        "samples": f"{SAMPLES}/{cell.file}",
        "device": first.get("device"),
        "dtype": first.get("dtype"),
        "versions": first.get("versions"),
    }
