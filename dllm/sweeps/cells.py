"""One cell of a sweep: a checkpoint, a set of questions and a strategy, with the settings that decide its results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dllm.compose.options import Options
from dllm.errors import CheckpointError, ConfigError, DllmError
from dllm.jobs import Job, ModelOutline, PromptRow
from dllm.sweeps.questions import QuestionSet

T = TypeVar("T")


@dataclass(frozen=True)
class SweepCheckpoint:
    """A model of a sweep, and how it is loaded; see `dllm.load`.

    label  what tables call it: by default its name
    """

    name: str = "embedded"
    label: str = ""
    dtype: str | None = None
    device: str | None = None
    device_map: str | None = None
    adapter: str | None = None
    mask_id: int | None = None
    family: str | None = None
    quantize: str | None = None
    compile: bool = False
    pack: bool | None = None

    @property
    def title(self) -> str:
        return self.label or self.name

    def loading(self) -> dict[str, Any]:
        """Arguments of `dllm.load` besides the name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "label")}

    def outline(self) -> ModelOutline:
        """What is known before weights are read. Raises ConfigError where there is no such checkpoint."""
        try:
            return ModelOutline.of(self.name, self.family)
        except CheckpointError as error:
            raise ConfigError(f"model {error}") from None

    def record(self) -> dict[str, Any]:
        """What decides its results and their speed, as JSON; a folder by its full path."""
        return self.loading() | {"model": _resolve_folder(self.name), "adapter": _resolve_folder(self.adapter)}


def _resolve_folder(name: str | None) -> str | None:
    """A checkpoint by a name that does not depend on the working folder."""
    return str(Path(name).resolve()) if name is not None and Path(name).is_dir() else name


@dataclass(frozen=True)
class Cell:
    """What is decoded together and becomes one row of the table.

    label  what the table calls the strategy
    given  its options as they were written, for the columns of the table
    job    strategy, length, seed, batch size
    """

    checkpoint: SweepCheckpoint
    questions: QuestionSet
    label: str
    given: Mapping[str, Any]
    job: Job

    def record(self) -> dict[str, Any]:
        """All that decides the cell's results or its speed, as JSON: equal records are the same cell."""
        job = {f.name: getattr(self.job, f.name) for f in fields(self.job) if f.name != "options"}
        options = {f.name: getattr(self.job.options, f.name) for f in fields(Options)}
        given = {name: value for name, value in options.items() if value not in (None, ())} | (
            {} if options["stop_ids"] is None else {"stop_ids": options["stop_ids"]}
        )
        return {"checkpoint": self.checkpoint.record(), "questions": self.questions.record(), "options": given, **job}

    @property
    def key(self) -> str:
        """A short name that only equal cells share."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def file(self) -> str:
        """The name of the file of its samples."""
        words = re.sub(r"[^A-Za-z0-9.=]+", "-", f"{self.questions.name} {self.label}").strip("-.")
        return f"{words[:60]}-{self.key}.jsonl"

    def __str__(self) -> str:
        return f"{self.checkpoint.title} · {self.questions.name} · {self.label}"

    def amended(self, **changes: Any) -> Cell:
        """The cell with other settings of its job."""
        return replace(self, job=replace(self.job, **changes))


def check_cells(cells: Sequence[Cell]) -> list[str]:
    """What is wrong with cells, all of it, before any weights are read; reads every file of questions once."""
    outlines: dict[SweepCheckpoint, ModelOutline | None] = {}
    rows: dict[QuestionSet, list[PromptRow] | None] = {}
    problems: list[str] = []
    for cell in cells:
        checkpoint, questions = cell.checkpoint, cell.questions
        if checkpoint not in outlines:
            outlines[checkpoint] = _call_noting_problems(checkpoint.outline, problems)
        if questions not in rows:
            rows[questions] = _call_noting_problems(partial(_read_question_rows, questions), problems)
        outline, asked = outlines[checkpoint], rows[questions]
        if outline is not None and asked is not None:
            _call_noting_problems(partial(cell.job.check, outline, asked), problems, f"{cell}: ")
    return problems


def _read_question_rows(questions: QuestionSet) -> list[PromptRow]:
    return [question.row for question in questions.read()]


def _call_noting_problems(make: Callable[[], T], problems: list[str], where: str = "") -> T | None:
    """What it makes; None, and a problem more, where it cannot."""
    try:
        return make()
    except DllmError as error:
        problems.append(f"{where}{error}")
        return None
