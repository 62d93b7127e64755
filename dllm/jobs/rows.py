"""A file of prompts, one JSON object a line: every line that can be used is read, and the others are reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar

from dllm.errors import ConfigError, RequestError
from dllm.prompts import Infill

T = TypeVar("T")
LARGEST = 2**62
"""Bound of a seed's absolute value, which leaves room for a row's place in the job to be added."""
PROMPTS = ("prompt", "messages", "prompt_ids", "infill")
"""Fields of which a row has exactly one."""
ROLE_AND_CONTENT = "must be a list of objects with a role and a content, both texts"


class PromptRow(NamedTuple):
    """One line of a job as its author wrote it.

    Attributes:
        line: Number of the line, from 1.
        place: Number of rows before it. Rows that cannot be used count, blank lines do not.
        id: Name of its result: the row's own `id`, or its place.
        prompt: A text, chat messages, token ids or a text with holes.
        max_new_tokens: New tokens; None: as the job says.
        stop_ids: End tokens; None: as the job says.
        seed: Seed of the row's random numbers; None: the job's seed plus the row's place.
    """

    line: int
    place: int
    id: str | int
    prompt: str | tuple[int, ...] | list[dict[str, str]] | Infill
    max_new_tokens: int | None = None
    stop_ids: tuple[int, ...] | None = None
    seed: int | None = None


class RowProblem(NamedTuple):
    """A row that cannot be decoded.

    Attributes:
        line: Number of its line, from 1.
        message: Reason why it cannot be decoded.
    """

    line: int
    message: str


def read_rows(path: Path) -> tuple[list[PromptRow], list[RowProblem]]:
    """Read the rows of a JSONL file, and what is wrong with the others. Blank lines are skipped.

    A row has one of `prompt`, `messages`, `prompt_ids` and `infill`, and may have `id`, `max_new_tokens`, `stop_ids`,
    `seed`, and with `infill` also `hole`. Null means the same as a field that is absent. Other fields are ignored.

    Raises:
        OSError: The file cannot be read.
    """
    return parse_lines(path, parse_row, lambda row: row)


def parse_lines(
    path: Path,
    parse: Callable[[bytes, int, int], T],
    row_of: Callable[[T], PromptRow],
    limit: int | None = None,
) -> tuple[list[T], list[RowProblem]]:
    """Parse every line of a JSONL file that is not blank, and collect what is wrong with the others.

    Args:
        path: The file. A byte order mark at its beginning is ignored.
        parse: Function of a line, its number from 1, and its place; raises RequestError or ConfigError.
        row_of: Function that returns the row of what `parse` made: its id must be unique in the file.
        limit: Number of lines to parse, from the first; None: all of them.

    Raises:
        OSError: The file cannot be read.
    """
    entries: list[T] = []
    problems: list[RowProblem] = []
    line_of_id: dict[tuple[type, str | int], int] = {}
    place = 0
    # Only "\n" ends a line: str.splitlines would also split at U+2028 and others, which JSON allows within a text.
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip() or place == limit:
            continue
        try:
            entry = parse(line, number, place)
            _register_row_id(row_of(entry), line_of_id)
            entries.append(entry)
        except (RequestError, ConfigError) as error:
            problems.append(RowProblem(number, str(error)))
        place += 1
    return entries, problems


def _register_row_id(row: PromptRow, line_of_id: dict[tuple[type, str | int], int]) -> None:
    """Note the line of a row's id. Raises RequestError if an earlier line has the same id."""
    # The type is part of the key because 1 and "1" are different ids.
    if (first := line_of_id.setdefault((type(row.id), row.id), row.line)) != row.line:
        raise RequestError(f"id {row.id!r} is that of line {first} already: every row needs an id of its own")


def parse_row(line: bytes, number: int, place: int) -> PromptRow:
    """Parse one line.

    Args:
        line: The line, without its end.
        number: Number of the line, from 1.
        place: Number of rows before it.

    Raises:
        RequestError: The line is not JSON, or not a row.
    """
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON that can be read ({error})") from None
    if not isinstance(value, dict):
        raise RequestError(f'holds a {type(value).__name__}; a row is a JSON object such as {{"prompt": "…"}}')
    fields = {key: entry for key, entry in value.items() if entry is not None}
    stops = fields.get("stop_ids")
    return PromptRow(
        number,
        place,
        _check_row_id(fields.get("id", place)),
        _parse_prompt(fields),
        None
        if "max_new_tokens" not in fields
        else check_length(fields["max_new_tokens"], least=int("infill" not in fields)),
        None if stops is None else tuple(_check_token_ids("stop_ids", stops)),
        None if "seed" not in fields else check_seed(fields["seed"]),
    )


def check_length(value: Any, least: int = 1) -> int:
    """Return a number of new tokens. Raises RequestError if it is not a whole number of at least `least`."""
    if not _is_whole_number(value) or not least <= value < 2**31:
        raise RequestError(f"max_new_tokens={value!r}: must be a whole number, at least {least}")
    return value


def check_hole(value: Any) -> int:
    """Return a number of tokens for a hole. Raises RequestError if it is not a positive whole number."""
    if not _is_whole_number(value) or not 1 <= value < 2**31:
        raise RequestError(f"hole={value!r}: must be a whole number, at least 1")
    return value


def check_seed(value: Any) -> int:
    """Return a seed. Raises RequestError if it is not a whole number between -2^62 and 2^62."""
    if not _is_whole_number(value) or not -LARGEST < value < LARGEST:
        raise RequestError(f"seed={value!r}: must be a whole number between -2^62 and 2^62")
    return value


def _check_row_id(value: Any) -> str | int:
    if isinstance(value, str) or _is_whole_number(value):
        return value
    raise RequestError(f"id={_shorten_json(value)}: must be a text or a whole number")


def _parse_prompt(fields: Mapping[str, Any]) -> str | tuple[int, ...] | list[dict[str, str]] | Infill:
    given = [name for name in PROMPTS if name in fields]
    if not given:
        raise RequestError(f"no prompt: a row has one of {', '.join(PROMPTS)}")
    if len(given) > 1:
        raise RequestError(f"{' and '.join(given)}: give one of them")
    value = fields[given[0]]
    if given[0] == "prompt_ids":
        ids = tuple(_check_token_ids("prompt_ids", value))
        if not ids:
            raise RequestError("prompt_ids=[]: the prompt is empty; give at least one token")
        return ids
    if given[0] == "messages":
        return _check_messages(value)
    if given[0] == "infill":
        if not isinstance(value, str):
            raise RequestError(f"infill={_shorten_json(value)}: must be a text with holes, such as 'The ____ sat'")
        return Infill(value, None if "hole" not in fields else check_hole(fields["hole"]))
    if not isinstance(value, str):
        raise RequestError(
            f"prompt={_shorten_json(value)}: must be a text (ids go into prompt_ids, a chat into messages)"
        )
    return check_text(value)


def check_text(text: str) -> str:
    """Return a text prompt. Raises RequestError if it is blank."""
    if not text.strip():
        raise RequestError("the prompt is empty: give some text")
    return text


def _check_messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise RequestError(f"messages={_shorten_json(value)}: {ROLE_AND_CONTENT}")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise RequestError(f"messages: {_shorten_json(message)} is none; {ROLE_AND_CONTENT}")
    return value


def _check_token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list):
        raise RequestError(f"{name}={_shorten_json(value)}: must be a list of token ids")
    if bad := [entry for entry in value if not _is_whole_number(entry)]:
        raise RequestError(f"{name} holds {_shorten_json(bad[0])}: token ids are whole numbers")
    return value


def _is_whole_number(value: Any) -> TypeGuard[int]:
    # In Python a bool is an int, in JSON true is not a number.
    return isinstance(value, int) and not isinstance(value, bool)


def _shorten_json(value: Any) -> str:
    """Format a JSON value for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
