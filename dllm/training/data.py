"""Readers of training files: rows become conversations and documents, and unusable rows are named by file and line.

| file | row | becomes |
|---|---|---|
| `.jsonl`, or `.json` with a list | `messages`: [{`role`, `content`}, …] | a conversation |
| | `instruction`, optional `input`, `output` (Alpaca) | question and answer |
| | `prompt` and `completion` or `response`; `question` and `answer` | question and answer |
| | `text` | a document |
| `.txt` | the whole file | a document |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dllm.errors import ConfigError

Message = dict[str, str]

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
ROLES = ("system", "user", "assistant", "tool")
SHAPES = "messages; instruction and output; prompt and completion (or response); question and answer; text"


class DataRecord(NamedTuple):
    """One usable row.

    Attributes:
        place: Position as file:line.
        messages: Messages of a conversation; empty for a document.
        text: Text of a document; "" for a conversation.
    """

    place: str
    messages: tuple[Message, ...] = ()
    text: str = ""


class DataProblem(NamedTuple):
    """A row that is not used.

    Attributes:
        place: Position as file:line.
        kind: Kind of the problem, under which rows are counted.
        message: Exact description.
    """

    place: str
    kind: str
    message: str


class _BadRowError(Exception):
    """A row that cannot be used; its arguments are (kind, message) of a `DataProblem`."""


def check_data_files(files: Iterable[str]) -> None:
    """Check that every file exists and is of a kind that can be read.

    Raises:
        ConfigError: For the first file that is not.
    """
    for name in files:
        path = Path(name)
        if path.suffix not in (".jsonl", ".json", ".txt"):
            raise ConfigError(f"data / --data {name}: must end in .jsonl, .json or .txt, which tells how to read it")
        if not path.is_file():
            raise ConfigError(f"data / --data {name}: no such file")


def read_data_files(files: Iterable[str]) -> Iterator[DataRecord | DataProblem]:
    """Read every row of the files in order.

    Yields:
        A record, or the reason why the row is unusable.

    Raises:
        ConfigError: For a `.json` file that is not a list of rows, since no row of it can be named.
    """
    for name in files:
        path = Path(name)
        if path.suffix == ".txt":
            yield from _read_document(path)
        elif path.suffix == ".jsonl":
            yield from (_convert_row(f"{name}:{line}", raw) for line, raw in enumerate(_read_lines(path), 1))
        else:
            yield from _read_json_list(path)


def _read_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _read_document(path: Path) -> Iterator[DataRecord | DataProblem]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        yield DataProblem(str(path), "not UTF-8", f"{error.reason} at byte {error.start}")
        return
    place = f"{path}:1"
    yield DataRecord(place, text=text) if text.strip() else DataProblem(place, "empty row", "the file holds no text")


def _read_json_list(path: Path) -> Iterator[DataRecord | DataProblem]:
    """Read a JSON list; a file that is not one is broken as a whole."""
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError both are
        raise ConfigError(
            f"data / --data {path}: broken JSON ({error}); rows of their own lines belong into .jsonl"
        ) from None
    if not isinstance(rows, list):
        raise ConfigError(f"data / --data {path}: holds a {type(rows).__name__}; a .json file is a list of rows")
    for number, row in enumerate(rows, 1):
        yield _convert_row(f"{path}:row {number}", row)


def _convert_row(place: str, row: Any) -> DataRecord | DataProblem:
    """Turn a raw line or a parsed object into a record, or into the reason why it is none."""
    try:
        if isinstance(row, bytes):
            row = _parse_json_line(row)
        if not isinstance(row, dict):
            raise _BadRowError("not a row", f"a {type(row).__name__} instead of an object")
        return _make_record(place, row)
    except _BadRowError as bad:
        return DataProblem(place, *bad.args)


def _parse_json_line(raw: bytes) -> Any:
    if not raw.strip():
        raise _BadRowError("empty row", "the line is blank")
    try:
        return json.loads(raw)
    except ValueError as error:
        raise _BadRowError("broken JSON", str(error)) from None


def _make_record(place: str, row: Mapping[str, Any]) -> DataRecord:
    """Recognise the fields of a row and build its record."""
    if not row:
        raise _BadRowError("empty row", "an object without fields")
    if "messages" in row:
        return DataRecord(place, _convert_messages(row["messages"]))
    if "instruction" in row and "output" in row:
        question, more = _get_text(row, "instruction"), _get_text(row, "input") if row.get("input") else ""
        return DataRecord(
            place,
            _make_question_and_answer(f"{question}\n\n{more}" if more.strip() else question, _get_text(row, "output")),
        )
    for question, answer in PAIRS:
        if question in row and answer in row:
            return DataRecord(place, _make_question_and_answer(_get_text(row, question), _get_text(row, answer)))
    if "text" in row:
        text = _get_text(row, "text")
        if not text.strip():
            raise _BadRowError("empty row", "text is blank")
        return DataRecord(place, text=text)
    missing = {"instruction": "output", "prompt": "completion", "question": "answer"}
    if found := [(key, other) for key, other in missing.items() if key in row]:
        raise _BadRowError("no response", f"has {found[0][0]!r} but no {found[0][1]!r}")
    raise _BadRowError("not a row", f"has {', '.join(map(repr, list(row)[:4]))}; a row has one of: {SHAPES}")


def _get_text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise _BadRowError("not a row", f"{key!r} is a {type(row[key]).__name__} instead of text")
    return str(row[key])


def _make_question_and_answer(question: str, answer: str) -> tuple[Message, ...]:
    if not question.strip():
        raise _BadRowError("empty row", "the question is blank")
    return _cut_after_last_answer(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def _convert_messages(given: Any) -> tuple[Message, ...]:
    """Check the messages of a conversation and keep their roles and contents."""
    if not isinstance(given, list):
        raise _BadRowError("not a row", f"'messages' is a {type(given).__name__} instead of a list")
    if not given:
        raise _BadRowError("empty row", "'messages' is empty")
    for number, message in enumerate(given, 1):
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise _BadRowError("not a row", f"message {number} needs a 'role' and a 'content', both text")
        if message["role"] not in ROLES:
            known = ", ".join(ROLES)
            raise _BadRowError("not a row", f"message {number} has role {message['role']!r}; roles are {known}")
    return _cut_after_last_answer(tuple({"role": m["role"], "content": m["content"]} for m in given))


def _cut_after_last_answer(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Drop the messages behind the last answer, since nothing of them is learnt.

    Raises:
        _BadRowError: For a conversation without an answer, or with a blank one.
    """
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise _BadRowError("no response", "no message of the assistant")
    if any(not messages[number]["content"].strip() for number in answers):
        raise _BadRowError("no response", "a message of the assistant is blank")
    return messages[: answers[-1] + 1]
