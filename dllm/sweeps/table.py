"""The table of a sweep: JSON lines, a row for each cell that is done, each safe on the disk before the next begins."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError

NAME = "table.jsonl"


class SweepTable:
    """The rows of a table file, to which more are appended. Use it as a context manager.

    rows  as they are in the file; the result of a kill within a write, a last line cut short, is removed from it

    Raises ConfigError where the file holds something else, or another sweep is writing to it; OSError where it cannot
    be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _lock_table(self.file, path)
            self.rows = _read_table_rows(path)
            os.ftruncate(self.file, path.read_bytes().rfind(b"\n") + 1)
        except BaseException:
            os.close(self.file)
            raise

    def __enter__(self) -> SweepTable:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)

    def __contains__(self, key: str) -> bool:
        return any(row["cell"] == key for row in self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; when this returns it is on the disk, and if it cannot be written whole, none of it is kept."""
        size = os.fstat(self.file).st_size
        left = memoryview(json.dumps(row).encode("ascii") + b"\n")
        try:
            while left:
                left = left[os.write(self.file, left) :]
            os.fsync(self.file)
        except OSError as error:
            os.ftruncate(self.file, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.rows.append(row)


def _lock_table(file: int, path: Path) -> None:
    """Only one sweep at a time writes to the file. Where the system has no such lock, the user sees to that."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return
    except BlockingIOError:
        raise ConfigError(
            f"{path}: another sweep is writing to it; wait for that, or choose another --output"
        ) from None
    except OSError:
        return  # a file system without locks


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table: a file, or the folder of a sweep. Raises ConfigError where it is none."""
    file = path / NAME if path.is_dir() else path
    try:
        return _read_table_rows(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; a sweep writes it (dllm sweep)") from None


def _read_table_rows(path: Path) -> list[dict[str, Any]]:
    """Its whole lines. Raises ConfigError for one that is no cell."""
    *lines, rest = path.read_bytes().split(b"\n")
    found = [_parse_table_line(line) for line in lines]
    if None in found or (rest and not rest.startswith(b'{"cell": "'[: len(rest)])):
        number = found.index(None) + 1 if None in found else len(found) + 1
        raise ConfigError(f"{path}: line {number} is not a cell of a sweep; choose another file, or move it away")
    return found  # type: ignore[return-value]


def _parse_table_line(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("cell"), str) else None
