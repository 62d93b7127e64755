"""The table of a sweep: JSON lines, a row for each cell that is done, each safe on the disk before the next begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from dllm.errors import ConfigError
from dllm.files import AppendOnlyFile

NAME = "table.jsonl"


class SweepTable:
    """The rows of a table file, to which more are appended. Use it as a context manager.

    Args:
        path: The file; it and its folder are created if they do not exist. A last line that a kill cut short is
            removed from it.

    Attributes:
        path: The file.
        rows: The rows that are in the file.

    Raises:
        ConfigError: The file holds something else, or another sweep is writing to it.
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = AppendOnlyFile(path, "sweep", "choose another --output")
        try:
            self.rows = _read_table_rows(path)
            self._file.truncate(path.read_bytes().rfind(b"\n") + 1)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SweepTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        """Return whether the cell of that key is in the table."""
        return any(row["cell"] == key for row in self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; when this returns, it is on the disk.

        Raises:
            OSError: The row cannot be written as a whole. Then no part of it is kept.
        """
        self._file.append(json.dumps(row).encode("ascii") + b"\n")
        self.rows.append(row)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table.

    Args:
        path: The file, or the folder of a sweep.

    Raises:
        ConfigError: There is no table.
    """
    file = path / NAME if path.is_dir() else path
    try:
        return _read_table_rows(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; a sweep writes it (dllm sweep)") from None


def _read_table_rows(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a table. Raises ConfigError for a line that is not a cell."""
    *lines, rest = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _parse_table_line(line)
        if row is None:
            _refuse(path, number)
        rows.append(row)
    # A rest without a newline may be dropped only if it is the beginning of a row of ours that a kill cut short.
    if rest and not rest.startswith(b'{"cell": "'[: len(rest)]):
        _refuse(path, len(rows) + 1)
    return rows


def _refuse(path: Path, number: int) -> NoReturn:
    raise ConfigError(f"{path}: line {number} is not a cell of a sweep; choose another file, or move it away")


def _parse_table_line(line: bytes) -> dict[str, Any] | None:
    """Parse a row of the table; None if the line is not one."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("cell"), str) else None
