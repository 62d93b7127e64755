"""Prompts with known answers: a JSONL file, or a set that the package brings for the embedded model.

A line is a row of `dllm decode --input`, and may have an `answer` and a `check` of its own. A template makes the prompt
from other fields of the line: "{question}".
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dllm.errors import ConfigError, RequestError
from dllm.jobs import PromptRow, RowProblem
from dllm.jobs.rows import PROMPTS, parse_row, register_row_id
from dllm.sweeps.answer_checks import CHECKS, check_answer, convert_answer_to_text, infer_check_name

DATA = Path(__file__).parent / "data"
SOURCES = {
    "word-problems": "300 word problems that the embedded model has never seen (seed 'report' of its text)",
    "word-problems-calibration": "200 others, to choose a strategy by",
}
"""Sets by name. Made by `python -m experiments.sweep_questions`."""


class Question(NamedTuple):
    """One row with what is known of its answer; check and answer are None where nothing is."""

    row: PromptRow
    check: str | None = None
    answer: str | None = None

    def correct(self, text: str | None) -> bool | None:
        """Whether a text answers it; None where that cannot be told."""
        if self.check is None or self.answer is None:
            return None
        return CHECKS[self.check](text or "", self.answer)


@dataclass(frozen=True)
class QuestionSet:
    """Where questions come from.

    name      what tables call the set
    path      its JSONL file
    limit     only the first so many; None: all
    template  makes a prompt of a line's fields, `{field}`; None: the line has one
    check     of `CHECKS`, for lines without their own; None: by the answer, see `infer_check_name`
    """

    name: str
    path: Path
    limit: int | None = None
    template: str | None = None
    check: str | None = None

    def read(self) -> list[Question]:
        """All of them. Raises ConfigError naming the first line that cannot be used."""
        found, problems = read_questions(self)
        if problems:
            raise ConfigError(f"{self.path}:{problems[0].line}: {problems[0].message}")
        if not found:
            raise ConfigError(f'{self.path}: holds no rows; a row is a line such as {{"prompt": "…", "answer": "…"}}')
        return found

    def record(self) -> dict[str, Any]:
        """What decides its questions, as JSON: not its name or place."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"sha256": digest, "limit": self.limit, "template": self.template, "check": self.check}


def find_source(name: str) -> Path | None:
    """The file of a set that the package brings; None for another name."""
    return DATA / f"{name}.jsonl" if name in SOURCES else None


def read_questions(given: QuestionSet) -> tuple[list[Question], list[RowProblem]]:
    """The questions of a file, and what is wrong with other lines. Raises ConfigError where it cannot be read."""
    try:
        lines = given.path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ConfigError(f"prompts {given.path}: {error.strerror}") from None
    found: list[Question] = []
    problems: list[RowProblem] = []
    seen: dict[tuple[type, str | int], int] = {}
    place = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip() or place == given.limit:
            continue
        try:
            question = _parse_question(line, number, place, given)
            register_row_id(question.row, seen)
            found.append(question)
        except (RequestError, ConfigError) as error:
            problems.append(RowProblem(number, str(error)))
        place += 1
    return found, problems


def _parse_question(line: bytes, number: int, place: int, given: QuestionSet) -> Question:
    """One line. Raises RequestError or ConfigError."""
    row = parse_row(line if given.template is None else _fill_template(line, given.template), number, place)
    fields = json.loads(line)
    if fields.get("answer") is None:
        return Question(row)
    answer = convert_answer_to_text(fields["answer"])
    check = str(fields.get("check") or given.check or infer_check_name(answer))
    check_answer(check, answer)
    return Question(row, check, answer)


def _fill_template(line: bytes, template: str) -> bytes:
    """The line with the prompt that a template makes of its fields. Raises RequestError."""
    try:
        fields = json.loads(line)
        assert isinstance(fields, dict)
    except (ValueError, RecursionError, AssertionError):
        return line  # `read_row` says what is wrong

    def field(match: re.Match[str]) -> str:
        if match.group(1) not in fields:
            has = ", ".join(fields)
            raise RequestError(f"template {template!r}: this line has no {match.group(1)!r}, it has {has}")
        return str(fields[match.group(1)])

    prompt = re.sub(r"\{(\w+)\}", field, template)
    kept = {key: value for key, value in fields.items() if key not in PROMPTS}
    return json.dumps(kept | {"prompt": prompt}).encode()
