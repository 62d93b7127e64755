"""One cell of a sweep: a checkpoint, a set of questions and a strategy, with the settings that decide its results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dllm.errors import CheckpointError, ConfigError, DllmError
from dllm.jobs import Job, ModelOutline, PromptRow
from dllm.sweeps.questions import QuestionSet

T = TypeVar("T")


@dataclass(frozen=True)
class SweepCheckpoint:
    """A model of a sweep, and the way it is loaded.

    Attributes:
        name: Checkpoint, as `dllm.load` takes it.
        label: Name of the model in tables; "": the same as `name`.
        dtype: Data type of the weights. This and all that follow are arguments of `dllm.load`, explained there.
        device: Device of the weights.
        device_map: Distribution of the weights over devices.
        adapter: PEFT adapter.
        mask_id: Mask token, instead of the checkpoint's.
        family: Family to treat the checkpoint as.
        quantize: Kind of quantization.
        compile: Whether forwards run through `torch.compile`.
        pack: Whether large weights are laid out for this CPU; None: if `dllm.load` finds it worthwhile.
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
        """Return the arguments of `dllm.load` besides the name."""
        return {name: value for name, value in asdict(self).items() if name not in ("name", "label")}

    def outline(self) -> ModelOutline:
        """Read what is known before the weights are read.

        Raises:
            ConfigError: There is no such checkpoint.
        """
        try:
            return ModelOutline.of(self.name, self.family)
        except CheckpointError as error:
            raise ConfigError(f"model {error}") from None

    def record(self) -> dict[str, Any]:
        """Return what decides the model's results and their speed, as JSON; a folder by its full path."""
        return self.loading() | {"model": _resolve_folder(self.name), "adapter": _resolve_folder(self.adapter)}


def _resolve_folder(name: str | None) -> str | None:
    """Return a checkpoint's name in a form that does not depend on the working folder."""
    return str(Path(name).resolve()) if name is not None and Path(name).is_dir() else name


@dataclass(frozen=True)
class Cell:
    """Questions that are decoded together by one strategy and become one row of the table.

    Attributes:
        checkpoint: The model.
        questions: The prompts, with their answers.
        label: Name of the strategy in the table.
        given: Options of the strategy as they were written, for the columns of the table.
        job: Strategy, length, seed and batch size.
    """

    checkpoint: SweepCheckpoint
    questions: QuestionSet
    label: str
    given: Mapping[str, Any]
    job: Job

    def record(self) -> dict[str, Any]:
        """Return all that decides the cell's results or its speed, as JSON; equal records are the same cell."""
        job = asdict(self.job)
        # Options at their defaults are left out, so that the key of a cell stays the same when an option is added to
        # the library. `stop_ids` is the exception: None takes those of the checkpoint and () none at all.
        options = {
            name: value
            for name, value in job.pop("options").items()
            if value is not None and (value != () or name == "stop_ids")
        }
        return {"checkpoint": self.checkpoint.record(), "questions": self.questions.record(), "options": options, **job}

    @property
    def key(self) -> str:
        """Short name that only equal cells share."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def file(self) -> str:
        """Name of the file of the cell's samples."""
        words = re.sub(r"[^A-Za-z0-9.=]+", "-", f"{self.questions.name} {self.label}").strip("-.")
        return f"{words[:60]}-{self.key}.jsonl"

    def __str__(self) -> str:
        return f"{self.checkpoint.title} · {self.questions.name} · {self.label}"


def check_cells(cells: Sequence[Cell]) -> list[str]:
    """Return what is wrong with cells, all of it, before any weights are read; every file of questions is read once."""
    outlines: dict[SweepCheckpoint, ModelOutline | None] = {}
    rows: dict[QuestionSet, list[PromptRow] | None] = {}
    problems: list[str] = []
    for cell in cells:
        checkpoint, questions = cell.checkpoint, cell.questions
        if checkpoint not in outlines:
            outlines[checkpoint] = _call_noting_problems(checkpoint.outline, problems)
        if questions not in rows:
            rows[questions] = _call_noting_problems(partial(_read_question_rows, questions), problems)
        outline, prompt_rows = outlines[checkpoint], rows[questions]
        if outline is not None and prompt_rows is not None:
            _call_noting_problems(partial(cell.job.check, outline, prompt_rows), problems, f"{cell}: ")
    return problems


def _read_question_rows(questions: QuestionSet) -> list[PromptRow]:
    return [question.row for question in questions.read()]


def _call_noting_problems(make: Callable[[], T], problems: list[str], where: str = "") -> T | None:
    """Return what `make` returns; if it raises an error of ours, add that to the problems and return None."""
    try:
        return make()
    except DllmError as error:
        problems.append(f"{where}{error}")
        return None
