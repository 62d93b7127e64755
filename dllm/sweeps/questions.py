"""Prompts with known answers: a JSONL file, or a set that comes with the package for the embedded model.

A line is a row of `dllm decode --input`, and may have an `answer` and a `check` of its own. A template makes the prompt
from other fields of the line: "{question}".
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from dllm.errors import ConfigError, RequestError
from dllm.jobs import PromptRow, RowProblem
from dllm.jobs.rows import PROMPTS, parse_lines, parse_row
from dllm.sweeps.answer_checks import CHECKS, check_answer, convert_answer_to_text, infer_check_name

DATA = Path(__file__).parent / "data"
SOURCES = {
    "word-problems": "300 word problems that the embedded model has never seen (seed 'report' of its text)",
    "word-problems-calibration": "200 others, to choose a strategy by",
}
"""Sets that come with the package, by name; `python -m experiments.sweep_questions` makes them."""


class Question(NamedTuple):
    """A prompt and its known answer.

    Attributes:
        row: The prompt, as a row of a job.
        check: Name of the rule, of `CHECKS`, that compares a text with the answer; None if there is no answer.
        answer: The right answer; None if it is not known.
    """

    row: PromptRow
    check: str | None = None
    answer: str | None = None

    def correct(self, text: str | None) -> bool | None:
        """Return whether a text answers the question; None if the answer is not known."""
        if self.check is None or self.answer is None:
            return None
        return CHECKS[self.check](text or "", self.answer)


@dataclass(frozen=True)
class QuestionSet:
    """A source of questions.

    Attributes:
        name: Name of the set in tables.
        path: JSONL file of the set.
        limit: Number of questions to use, from the first; None: all of them.
        template: Text that becomes the prompt when each `{field}` in it is replaced by that field of the line; None:
            the line has a prompt of its own.
        check: Name of the check, of `CHECKS`, for lines that name none; None: chosen by `infer_check_name`.
    """

    name: str
    path: Path
    limit: int | None = None
    template: str | None = None
    check: str | None = None

    def read(self) -> list[Question]:
        """Read all questions.

        Raises:
            ConfigError: The file cannot be read, or a line of it cannot be used; the message names the first such line.
        """
        questions, problems = read_questions(self)
        if problems:
            raise ConfigError(f"{self.path}:{problems[0].line}: {problems[0].message}")
        if not questions:
            raise ConfigError(f'{self.path}: holds no rows; a row is a line such as {{"prompt": "…", "answer": "…"}}')
        return questions

    def record(self) -> dict[str, Any]:
        """Return what decides the questions, as JSON: the content of the file, but not its name or folder."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"sha256": digest, "limit": self.limit, "template": self.template, "check": self.check}


def find_source(name: str) -> Path | None:
    """Return the file of a set that comes with the package; None for any other name."""
    return DATA / f"{name}.jsonl" if name in SOURCES else None


def read_questions(given: QuestionSet) -> tuple[list[Question], list[RowProblem]]:
    """Read the questions of a file, and what is wrong with other lines.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        return parse_lines(given.path, partial(_parse_question, given=given), attrgetter("row"), given.limit)
    except OSError as error:
        raise ConfigError(f"prompts {given.path}: {error.strerror}") from None


def _parse_question(line: bytes, number: int, place: int, given: QuestionSet) -> Question:
    """Parse one line of a set. Raises RequestError or ConfigError if it cannot be used."""
    row = parse_row(line if given.template is None else _fill_template(line, given.template), number, place)
    fields = json.loads(line)  # succeeds, because `parse_row` has parsed this line or one made from it
    if fields.get("answer") is None:
        return Question(row)
    answer = convert_answer_to_text(fields["answer"])
    check = str(fields.get("check") or given.check or infer_check_name(answer))
    check_answer(check, answer)
    return Question(row, check, answer)


def _fill_template(line: bytes, template: str) -> bytes:
    """Replace the prompt of a line by what a template makes of its fields. Raises RequestError for a missing field."""
    try:
        fields = json.loads(line)
        assert isinstance(fields, dict)
    except (ValueError, RecursionError, AssertionError):
        return line  # `parse_row` will report what is wrong with it

    def field(match: re.Match[str]) -> str:
        if match.group(1) not in fields:
            has = ", ".join(fields)
            raise RequestError(f"template {template!r}: this line has no {match.group(1)!r}, it has {has}")
        return str(fields[match.group(1)])

    prompt = re.sub(r"\{(\w+)\}", field, template)
    kept = {key: value for key, value in fields.items() if key not in PROMPTS}
    return json.dumps(kept | {"prompt": prompt}).encode()
