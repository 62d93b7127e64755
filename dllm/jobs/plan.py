"""What each row of a job becomes: a request, and a plan to decode it by."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dllm.compose.options import Options
from dllm.engine.autoregressive import Autoregressive, refuse_holes
from dllm.engine.batch import Batch
from dllm.engine.loop import match_block_size
from dllm.errors import ConfigError, DllmError, RequestError
from dllm.jobs.rows import PromptRow, RowProblem
from dllm.models.checkpoint import CheckpointFiles, read_checkpoint
from dllm.models.families import AUTOREGRESSIVE
from dllm.models.guided import Guided
from dllm.models.third_party import one_line, silence_transformers
from dllm.prompts import Infill, encode_prompt, make_infill_request
from dllm.requests import Request
from dllm.strategy import Sampling, Stopping, Strategy
from dllm.types import BlockCausal, Geometry

T = TypeVar("T")
ANY_MODEL = ("temperature", "top_k", "top_p", "stop", "stop_ids")
"""Options that a plain causal model has too."""


class ModelOutline(NamedTuple):
    """As much of a model as decides whether a job can work: known before its weights are read."""

    family: str
    geometry: Geometry
    max_columns: int = 2**31

    @classmethod
    def of(cls, name: str | Path, family: str | None = None) -> ModelOutline:
        """The outline of a checkpoint, of a named family if given. Raises CheckpointError where there is none."""
        return cls.of_files(read_checkpoint(name, family=family))

    @classmethod
    def of_files(cls, found: CheckpointFiles) -> ModelOutline:
        """The outline of a checkpoint whose small files are read already."""
        return cls(found.family.name, found.family.geometry(found.config))


class DecodeTask(NamedTuple):
    """A row that can be decoded: its request, and how."""

    row: PromptRow
    request: Request
    plan: Strategy | Autoregressive


@dataclass(frozen=True)
class Job:
    """What all rows of a job share.

    options         how to decode
    max_new_tokens  for rows that do not say; a text with holes then gets no tokens behind it
    seed            row i draws from seed + i, unless it has a seed of its own
    chat            a text is the user's message of a chat, where the tokenizer has a template
    batch_size      rows decoded together; it does not change any result
    guidance        scale of classifier-free guidance; 0: none
    """

    options: Options = Options()
    max_new_tokens: int = 128
    seed: int = 0
    chat: bool = True
    batch_size: int = 8
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}: must be at least 1")
        if not 0 <= self.guidance < math.inf:
            raise ConfigError(f"guidance={self.guidance}: must be 0 (none) or a positive number")

    def guided(self, model: Any) -> Any:
        """The model as the job asks for it."""
        return Guided(model, self.guidance) if self.guidance else model

    def plan(self, model: Any, max_new_tokens: int) -> Strategy | Autoregressive:
        """How a row of that length is decoded: `steps` is a total, so lengths may differ in their strategy."""
        if model.family == AUTOREGRESSIVE.name:
            return self.baseline()
        kind = model.family, model.geometry, max_new_tokens
        if kind not in self._strategies:
            self._strategies[kind] = self.options.strategy(model, max_new_tokens)
        return self._strategies[kind]

    @functools.cached_property
    def _strategies(self) -> dict[tuple[str, Geometry, int], Strategy]:
        """Strategies made so far, by all that they depend on: one for each length, and not one for each row."""
        return {}

    def baseline(self) -> Autoregressive:
        """The plan for a plain causal model. Raises ConfigError for options that only a diffusion model has."""
        if self.guidance:
            raise ConfigError("--guidance does not belong to a plain causal language model: leave it out")
        for field in fields(Options):
            if field.name not in ANY_MODEL and getattr(self.options, field.name) != field.default:
                option = "--" + field.name.replace("_", "-")
                raise ConfigError(f"{option} does not belong to a plain causal language model: leave it out")
        given = {name: getattr(self.options, name) for name in ("temperature", "top_k", "top_p")}
        sampling = Sampling(**{name: value for name, value in given.items() if value is not None})
        return Autoregressive(sampling, Stopping(self.options.stop_ids, self.options.stop))

    def check(self, outline: ModelOutline, rows: Sequence[PromptRow]) -> None:
        """Raise ConfigError if no row could be decoded with these options; before any weights are read."""
        errors: list[ConfigError] = []
        lengths = list(dict.fromkeys(1 if (n := self.length(row)) is None else n for row in rows))
        for length in lengths:
            try:
                self.plan(outline, length)
            except ConfigError as error:
                errors.append(error)
        unknown = self.options.steps is not None and any(self.length(row) is None for row in rows)
        if errors and len(errors) == len(lengths) and not unknown:
            raise errors[0]

    def length(self, row: PromptRow) -> int | None:
        """New tokens of a row; None for a text with holes, whose tokens are not known yet."""
        if isinstance(row.prompt, Infill):
            return None
        return self.max_new_tokens if row.max_new_tokens is None else row.max_new_tokens

    def tasks(self, model: Any, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        """The rows that can be decoded, and what is wrong with the others."""
        found, problems = [], []
        for row in rows:
            try:
                found.append(self.task(model, row))
            except (RequestError, ConfigError) as error:
                problems.append(RowProblem(row.line, str(error)))
        return found, problems

    def task(self, model: Any, row: PromptRow) -> DecodeTask:
        """A row as a task. Raises RequestError or ConfigError where it cannot be one."""
        if isinstance(row.prompt, Infill):
            request = _make_infill_request(model, row.prompt, row.max_new_tokens or 0)
        else:
            request = Request(tokenize_prompt(model, row.prompt, self.chat), self.length(row) or 0)
        seed = self.seed + row.place if row.seed is None else row.seed
        request = replace(request, stop_ids=row.stop_ids, seed=seed)
        plan = self.plan(model, request.limit - request.start)
        if bad := [i for i in request.stop_ids or () if not 0 <= i < model.vocabulary]:
            raise RequestError(f"stop_ids holds {bad[0]}: ids of this checkpoint lie in 0..{model.vocabulary - 1}")
        if isinstance(plan, Autoregressive):
            refuse_holes([request])
            request.check(ModelOutline(model.family, BlockCausal(1), model.max_columns), model.vocabulary)  # type: ignore[arg-type]
        else:
            request.check(match_block_size(model, plan), model.vocabulary)
            if plan.constrained:
                seats = Batch.of(match_block_size(model, plan), [request], plan, None)
                seats.proposer.init(seats.lay_out([request]), seats.model)
        return DecodeTask(row, request, plan)


def tokenize_prompt(model: Any, prompt: str | tuple[int, ...] | list[dict[str, str]], chat: bool) -> tuple[int, ...]:
    """Token ids of a row's prompt. Raises RequestError."""
    return _call_tokenizer(lambda: encode_prompt(model, prompt, chat))


def _make_infill_request(model: Any, infill: Infill, max_new_tokens: int) -> Request:
    """The request of a text with holes. Raises RequestError."""
    return _call_tokenizer(lambda: make_infill_request(model, replace(infill, max_new_tokens=max_new_tokens)))


def _call_tokenizer(make: Callable[[], T]) -> T:
    """What a tokenizer makes of a prompt. Raises RequestError, whatever it complains of."""
    try:
        with silence_transformers():
            return make()
    except DllmError:
        raise
    except Exception as error:  # templates and tokenizers raise nearly anything
        raise RequestError(f"the tokenizer cannot read this prompt ({one_line(error)})") from None
