"""The file that a job writes its results to: row by row, each safe on the disk, and continued after an interruption.

A user's own file is never overwritten: a file that holds anything other than the first rows of this very job is
refused. Beside it lies a small file of the same name and `.job`, the facts, which records what the rows were made with.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dllm.engine.results import Result
from dllm.errors import ConfigError
from dllm.files import AppendOnlyFile, write_atomically
from dllm.jobs.plan import DecodeTask
from dllm.jobs.running import RowDone
from dllm.metrics import Provenance, result_to_record

CURE = "choose another --output, or move the file away"

IdKey = tuple[type, str | int]


def format_result_line(
    task: DecodeTask, result: Result, provenance: Provenance | None = None, more: Mapping[str, Any] | None = None
) -> bytes:
    """Format a result as a line of JSON, `more` fields last, in ASCII so that no reader can split it elsewhere."""
    row = result_to_record(result, task.plan, provenance, task.row.id, task.request.seed)
    return json.dumps(row | dict(more or {})).encode("ascii") + b"\n"


class Journal:
    """Rows of results at the end of a file. Use it as a context manager.

    Args:
        path: The file. A device such as /dev/stdout is written to and never read.
        made: What the rows are made with, by name; a later run must give the same to continue the file.

    Attributes:
        path: The file.
        made: What the rows are made with.
        regular: False if the file is a device or a pipe.

    Raises:
        OSError: The file cannot be written.
        ConfigError: The file belongs to something else, or another job is writing to it.
    """

    def __init__(self, path: Path, made: Mapping[str, Any]) -> None:
        self.path = path
        self.made = dict(made)
        self._facts_path = path.with_name(path.name + ".job")
        self._wrote_facts = False
        self._is_new = not path.exists()
        self._file = AppendOnlyFile(path, "job", CURE)
        self.regular = self._file.is_regular
        try:
            if self.regular:
                self._compare_facts()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; a new file to which nothing was written is removed."""
        if self._is_new and self.regular and self._file.size == 0:
            for path in (self.path, self._facts_path) if self._wrote_facts else (self.path,):
                with contextlib.suppress(OSError):
                    path.unlink()
        self._file.close()

    @property
    def kept(self) -> int:
        """Number of rows in the file; counted there, since an interruption may fall between any two lines of code."""
        return self.path.read_bytes().count(b"\n") if self.regular else 0

    def resume(self, tasks: Sequence[DecodeTask]) -> list[DecodeTask]:
        """Return the tasks that are not in the file yet, and remove a last line that a kill cut short.

        Raises:
            ConfigError: The file holds something other than rows of these tasks. It is left as it is.
        """
        if not self.regular:
            return list(tasks)
        *lines, rest = self.path.read_bytes().split(b"\n")
        open_tasks = {_make_id_key(task.row.id): task for task in tasks}
        for number, line in enumerate(lines, start=1):
            del open_tasks[self._match(line, number, open_tasks)]
        if rest:
            # Without a newline at its end the rest is either a row of ours that was cut short, which is dropped, or
            # somebody else's text, which must not be lost. Ours begins like a line of one of the open tasks.
            starts = (_format_line_start(task) for task in open_tasks.values())
            if not any(start.startswith(rest) or rest.startswith(start) for start in starts):
                self._refuse(f"line {len(lines) + 1} is not a row of this job")
            self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write_facts()
        return [task for task in tasks if _make_id_key(task.row.id) in open_tasks]

    def write(self, done: RowDone, more: Mapping[str, Any] | None = None) -> None:
        """Append a row, with `more` fields; when this returns, the row is on the disk.

        Raises:
            OSError: The row cannot be written as a whole. Then no part of it is kept.
        """
        self._file.append(format_result_line(*done, more=more))

    def _compare_facts(self) -> None:
        """Check that the rows in the file were made with what this job would make them with.

        Raises:
            ConfigError: They were made with something else.
        """
        if self._file.size == 0:
            return
        before = self._read_facts() or {}  # rows without their facts are still compared one by one
        for name, value in self.made.items():
            # The round trip gives `value` the types that JSON gave `before`: lists for tuples, for instance.
            if name in before and before[name] != json.loads(json.dumps(value)):
                self._refuse(f"its rows were made with {name} {before[name]}, not {value}")

    def _write_facts(self) -> None:
        """Record beside the file what its rows are made with."""
        if self._facts_path.exists() and "model" not in (self._read_facts() or {}):
            raise ConfigError(f"{self._facts_path} is needed beside {self.path} but holds something else: {CURE}")
        with write_atomically(self._facts_path) as temporary:
            temporary.write_text(json.dumps(self.made, indent=1) + "\n", encoding="utf-8")
        self._wrote_facts = True

    def _read_facts(self) -> dict[str, Any] | None:
        """Read what the rows in the file were made with; None if there is no such record."""
        try:
            facts = json.loads(self._facts_path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def _match(self, line: bytes, number: int, tasks: Mapping[IdKey, DecodeTask]) -> IdKey:
        """Find the key of the task whose result a line is.

        Raises:
            ConfigError: The line is not the result of any of these tasks.
        """
        try:
            row = json.loads(line)
            key = _make_id_key(row["id"])
            prompt, output, strategy = row["prompt_ids"], row["output_ids"], row["strategy"]
            length = len(output)
        except (ValueError, KeyError, TypeError):
            self._refuse(f"line {number} is not a row that this program wrote")
        if key not in tasks:
            self._refuse(f"line {number} is about row {row['id']!r}, which this job does not have, or has already")
        task = tasks[key]
        if prompt != list(task.request.prompt):
            self._refuse(f"line {number} is about another prompt of id {row['id']!r}")
        if strategy != repr(task.plan):
            self._refuse(f"line {number} was decoded by {strategy}, not {task.plan!r}")
        most = task.request.max_new_tokens + len(task.request.holes)
        if length > most:
            self._refuse(f"line {number} has {length} tokens, not up to {most}")
        return key

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"{self.path} belongs to another job ({why}): {CURE}")


def _make_id_key(name: Any) -> IdKey:
    """Make a key of an id, under which 1 and "1" differ. Raises TypeError for a list or an object."""
    hash(name)
    return type(name), name


def _format_line_start(task: DecodeTask) -> bytes:
    """Format the beginning of a task's line, as far as it is known before the task is decoded."""
    known = {"id": task.row.id, "prompt_ids": list(task.request.prompt)}
    return json.dumps(known).encode("ascii")[:-1] + b', "output_ids": ['
