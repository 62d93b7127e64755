"""The file a job writes its results to: a row at a time, each safe on the disk, and continued after an interruption.

What a user made is never overwritten: a file that holds anything else than the first rows of this very job is refused.
Beside it lies a small file of the same name and `.job` that says what the rows were made with.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm.engine.results import Result
from dllm.errors import ConfigError
from dllm.jobs.plan import DecodeTask
from dllm.jobs.running import RowDone
from dllm.metrics import Provenance, result_to_record

CURE = "choose another --output, or move the file away"


def format_result_line(
    task: DecodeTask, result: Result, provenance: Provenance | None = None, more: Mapping[str, Any] | None = None
) -> bytes:
    """A result as one line of JSON, in ASCII so that no reader can split it elsewhere; `more` fields come last."""
    row = result_to_record(result, task.plan, provenance, task.row.id, task.request.seed)
    return json.dumps(row | dict(more or {})).encode("ascii") + b"\n"


class Journal:
    """Rows of results at the end of a file. Use it as a context manager.

    path  where; a device such as /dev/stdout is written to and never read
    made  what the rows are made with, by name: a later run must say the same to continue the file

    Raises OSError where the file cannot be written, ConfigError where it belongs to something else.
    """

    def __init__(self, path: Path, made: Mapping[str, Any]) -> None:
        self.path = path
        self.made = dict(made)
        self.facts = path.with_name(path.name + ".job")
        self.started = False
        self.ours = not path.exists()
        self.file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self.regular = stat.S_ISREG(os.fstat(self.file).st_mode)
        try:
            if self.regular:
                self._lock()
                self._compare_facts()
        except BaseException:
            os.close(self.file)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; a new file in which nothing was written is not left behind."""
        if self.ours and self.regular and os.fstat(self.file).st_size == 0:
            for path in (self.path, self.facts) if self.started else (self.path,):
                with contextlib.suppress(OSError):
                    path.unlink()
        os.close(self.file)

    @property
    def kept(self) -> int:
        """Rows in the file; counted there, since an interruption may fall between any two lines of code."""
        return self.path.read_bytes().count(b"\n") if self.regular else 0

    def resume(self, tasks: Sequence[DecodeTask]) -> list[DecodeTask]:
        """The tasks that are not in the file yet; a line that was cut short by a kill is removed from it.

        Raises ConfigError, without touching the file, if what it holds are not rows of these tasks.
        """
        if not self.regular:
            return list(tasks)
        *lines, rest = self.path.read_bytes().split(b"\n")
        open_tasks = {_make_id_key(task.row.id): task for task in tasks}
        for number, line in enumerate(lines, start=1):
            del open_tasks[self._match(line, number, open_tasks)]
        if rest:
            heads = (_format_line_start(task) for task in open_tasks.values())
            if not any(head.startswith(rest) or rest.startswith(head) for head in heads):
                self._refuse(f"line {len(lines) + 1} is not a row of this job")
            os.ftruncate(self.file, sum(len(line) + 1 for line in lines))
        if not lines:
            self._note_facts()
        return [task for task in tasks if _make_id_key(task.row.id) in open_tasks]

    def write(self, done: RowDone, more: Mapping[str, Any] | None = None) -> None:
        """Append a row, with `more` fields; when this returns it is on the disk.

        If it cannot be written whole, none of it is kept.
        """
        line = format_result_line(*done, more=more)
        size = os.fstat(self.file).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self.file, left) :]
            if self.regular:
                os.fsync(self.file)
        except OSError as error:
            if self.regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(self.file, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def _lock(self) -> None:
        """Only one job at a time writes to the file. Where the system has no such lock, the user sees to that."""
        try:
            import fcntl

            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return
        except BlockingIOError:
            raise ConfigError(f"{self.path}: another job is writing to it; wait for that, or {CURE}") from None
        except OSError:
            return  # a file system without locks

    def _compare_facts(self) -> None:
        """What the rows in the file were made with must be what this job would make them with."""
        if os.fstat(self.file).st_size == 0:
            return
        before = self._read_facts() or {}  # rows without their facts are still compared one by one
        for name, value in self.made.items():
            if name in before and before[name] != json.loads(json.dumps(value)):
                self._refuse(f"its rows were made with {name} {before[name]}, not {value}")

    def _note_facts(self) -> None:
        """Say beside the file what its rows are made with."""
        if self.facts.exists() and "model" not in (self._read_facts() or {}):
            raise ConfigError(f"{self.facts} is needed beside {self.path} but holds something else: {CURE}")
        self.facts.write_text(json.dumps(self.made, indent=1) + "\n", encoding="utf-8")
        self.started = True

    def _read_facts(self) -> dict[str, Any] | None:
        """What the rows in the file were made with; None where that cannot be told."""
        try:
            facts = json.loads(self.facts.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def _match(self, line: bytes, number: int, tasks: Mapping[Any, DecodeTask]) -> Any:
        """The key of the task whose result a line is."""
        try:
            row = json.loads(line)
            key = _make_id_key(row["id"])
            given, output, strategy = row["prompt_ids"], row["output_ids"], row["strategy"]
            length = len(output)
        except (ValueError, KeyError, TypeError):
            self._refuse(f"line {number} is not a row that this program wrote")
        if key not in tasks:
            self._refuse(f"line {number} is about row {row['id']!r}, which this job does not have, or has already")
        task = tasks[key]
        if given != list(task.request.prompt):
            self._refuse(f"line {number} is about another prompt of id {row['id']!r}")
        if strategy != repr(task.plan):
            self._refuse(f"line {number} was decoded by {strategy}, not {task.plan!r}")
        most = task.request.max_new_tokens + len(task.request.holes)
        if length > most:
            self._refuse(f"line {number} has {length} tokens, not up to {most}")
        return key

    def _refuse(self, why: str) -> Any:
        raise ConfigError(f"{self.path} belongs to another job ({why}): {CURE}")


def _make_id_key(name: Any) -> tuple[type, Any]:
    """An id as a key under which 1 and "1" differ."""
    hash(name)
    return type(name), name


def _format_line_start(task: DecodeTask) -> bytes:
    """How the line of a task begins, as far as that is known before it is decoded."""
    known = {"id": task.row.id, "prompt_ids": list(task.request.prompt)}
    return json.dumps(known).encode("ascii")[:-1] + b', "output_ids": ['
