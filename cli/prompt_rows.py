"""The rows of `dllm decode`: a prompt, a text with holes, a file of them, or what stands on stdin."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dllm.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from dllm.jobs import PromptRow, RowProblem


class PromptRows(NamedTuple):
    """Rows to decode.

    Attributes:
        source: What messages about a row begin with: the file, or "prompt".
        rows: Rows that could be read.
        problems: What is wrong with the others.
    """

    source: str
    rows: list[PromptRow]
    problems: list[RowProblem]


def collect_rows(
    prompt: str | None, infill: str | None, path: Path | None, max_new_tokens: int | None, hole: int | None
) -> PromptRows:
    """Collect the rows from where they were given.

    Args:
        prompt: The prompt; where there is nothing else either, it is read from stdin.
        infill: A text with holes.
        path: A JSONL file.
        max_new_tokens: Most tokens behind a text with holes.
        hole: Tokens of a hole, for rows with holes that do not say.
    """
    from dllm.jobs import check_hole
    from dllm.prompts import Infill

    hole = None if hole is None else check_hole(hole)
    found = _read_given_rows(prompt, infill, path, max_new_tokens)
    if hole is None:
        return found
    if not any(isinstance(row.prompt, Infill) for row in found.rows):
        raise ConfigError("--hole says how long holes are, and there is no text with holes: use --infill")
    rows = [
        row._replace(prompt=replace(row.prompt, hole=row.prompt.hole or hole))
        if isinstance(row.prompt, Infill)
        else row
        for row in found.rows
    ]
    return found._replace(rows=rows)


def _read_given_rows(
    prompt: str | None, infill: str | None, path: Path | None, max_new_tokens: int | None
) -> PromptRows:
    from dllm.jobs import PromptRow, check_text
    from dllm.prompts import Infill

    if infill is not None:
        if prompt is not None or path is not None:
            raise ConfigError("--infill, PROMPT and --input: give one of them")
        return PromptRows("prompt", [PromptRow(1, 0, 0, Infill(infill), max_new_tokens)], [])
    if path is not None:
        if prompt is not None:
            raise ConfigError(f"PROMPT {prompt[:40]!r} and --input {path}: give one of them")
        return _read_file(path)
    return PromptRows("prompt", [PromptRow(1, 0, 0, check_text(_read_stdin() if prompt is None else prompt))], [])


def _read_file(path: Path) -> PromptRows:
    from dllm.jobs import read_rows

    try:
        rows, problems = read_rows(path)
    except OSError as error:
        raise ConfigError(f"--input {path}: {error.strerror}") from None
    if not rows and not problems:
        raise ConfigError(f'--input {path}: holds no rows; a row is a line such as {{"prompt": "…"}}')
    return PromptRows(str(path), rows, problems)


def _read_stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("no prompt: give PROMPT, --input FILE.jsonl, or a text on stdin")
    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"the prompt on stdin is not UTF-8 ({error.reason} at byte {error.start})") from None
