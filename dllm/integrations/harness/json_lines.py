"""JSONL files of evaluations: data sets, finished answers, known likelihoods."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dllm.errors import ConfigError


def read_json_lines(path: Path, *, skip_broken: bool = False) -> Iterator[Any]:
    """Read the values of a JSONL file, which may be compressed (`.gz`); blank lines are left out.

    Args:
        path: File to read.
        skip_broken: Leave out lines that are not JSON, such as one that a kill has cut short.

    Raises:
        ConfigError: For a file that cannot be read and, without `skip_broken`, for the first line that is not JSON.
    """
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    # Split at line feeds only: `splitlines` also splits at separators that JSON allows inside a string.
    for number, line in enumerate(text.split(b"\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                if not skip_broken:
                    raise ConfigError(f"{path}:{number}: not JSON ({error})") from None


def remove_partial_line(path: Path) -> None:
    """Cut off a last line without its line feed, so that the next one that is appended begins a line."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
