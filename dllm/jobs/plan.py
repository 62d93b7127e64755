"""From the rows of a job to tasks: a request for each row, and a plan to decode it by."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dllm.compose.options import Options
from dllm.engine.autoregressive import Autoregressive, refuse_holes
from dllm.engine.batch import Batch, match_block_size
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
"""Options that also apply to a plain causal model."""


class ModelOutline(NamedTuple):
    """The part of a model's description that decides whether a job can work, known before its weights are read.

    Attributes:
        family: Name of the model's family.
        geometry: Pattern of its attention.
        max_columns: Longest canvas that its positions allow.
    """

    family: str
    geometry: Geometry
    max_columns: int = 2**31

    @classmethod
    def of(cls, name: str | Path, family: str | None = None) -> ModelOutline:
        """Read the outline of a checkpoint.

        Args:
            name: Checkpoint, as `dllm.load` takes it.
            family: Family to treat it as; None: the one that its config names.

        Raises:
            CheckpointError: There is no such checkpoint.
        """
        return cls.of_files(read_checkpoint(name, family=family))

    @classmethod
    def of_files(cls, found: CheckpointFiles) -> ModelOutline:
        """Make the outline of a checkpoint whose small files are read already."""
        return cls(found.family.name, found.family.geometry(found.config))


class DecodeTask(NamedTuple):
    """A row that can be decoded.

    Attributes:
        row: The row as its author wrote it.
        request: The same as token ids, with its settings.
        plan: The way to decode it.
    """

    row: PromptRow
    request: Request
    plan: Strategy | Autoregressive


@dataclass(frozen=True)
class Job:
    """The settings that all rows of a job share.

    Attributes:
        options: Options of decoding.
        max_new_tokens: New tokens of a row that does not say. A text with holes that does not say gets no tokens
            behind it.
        seed: Seed of the job. Row i draws from `seed + i`, unless it has a seed of its own.
        chat: Whether a text is the user's message of a chat, if the tokenizer has a chat template.
        batch_size: Rows decoded together; it does not change any result.
        guidance: Scale of classifier-free guidance; 0: none.
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
        """Return the model, with the job's guidance around it if there is any."""
        return Guided(model, self.guidance) if self.guidance else model

    def plan(self, model: Any, max_new_tokens: int) -> Strategy | Autoregressive:
        """Make the plan for rows of `max_new_tokens`.

        The option `steps` is a total over the whole generation, so the plan may depend on the length.

        Args:
            model: The model or its outline: only `family` and `geometry` are read.
            max_new_tokens: New tokens of the row.

        Raises:
            ConfigError: The options do not fit each other, or the model.
        """
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
        """Make the plan for a plain causal model.

        Raises:
            ConfigError: An option is set that only a diffusion model has.
        """
        if self.guidance:
            raise ConfigError("--guidance does not belong to a plain causal language model: leave it out")
        options = asdict(self.options)
        for field in fields(Options):
            if field.name not in ANY_MODEL and options[field.name] != field.default:
                option = "--" + field.name.replace("_", "-")
                raise ConfigError(f"{option} does not belong to a plain causal language model: leave it out")
        given = {name: options[name] for name in ("temperature", "top_k", "top_p") if options[name] is not None}
        sampling = Sampling(**given)
        return Autoregressive(sampling, Stopping(self.options.stop_ids, self.options.stop))

    def check(self, outline: ModelOutline, rows: Sequence[PromptRow]) -> None:
        """Check that at least one row could be decoded with these options, before any weights are read.

        A job in which only some lengths fail is let through: its other rows are decoded, and `tasks` reports these.

        Raises:
            ConfigError: No row could be decoded.
        """
        errors: list[ConfigError] = []
        # A text with holes counts as one token here, because its length is known only to the tokenizer.
        lengths = list(dict.fromkeys(1 if (n := self.length(row)) is None else n for row in rows))
        for length in lengths:
            try:
                self.plan(outline, length)
            except ConfigError as error:
                errors.append(error)
        # With `steps` the assumed length of one token proves nothing: more tokens may have room for these steps.
        unknown = self.options.steps is not None and any(self.length(row) is None for row in rows)
        if errors and len(errors) == len(lengths) and not unknown:
            raise errors[0]

    def length(self, row: PromptRow) -> int | None:
        """Return the number of new tokens of a row; None for a text with holes, which is not tokenized yet."""
        if isinstance(row.prompt, Infill):
            return None
        return self.max_new_tokens if row.max_new_tokens is None else row.max_new_tokens

    def tasks(self, model: Any, rows: Sequence[PromptRow]) -> tuple[list[DecodeTask], list[RowProblem]]:
        """Return the rows that can be decoded, and what is wrong with the others."""
        tasks, problems = [], []
        for row in rows:
            try:
                tasks.append(self.task(model, row))
            except (RequestError, ConfigError) as error:
                problems.append(RowProblem(row.line, str(error)))
        return tasks, problems

    def task(self, model: Any, row: PromptRow) -> DecodeTask:
        """Make the task of a row.

        Raises:
            RequestError: The row cannot be decoded by this model.
            ConfigError: The options do not fit a row of this length.
        """
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
                # Whether a constraint can be met shows only on a canvas, so the row is laid out on its own.
                Batch.open(model, [request], plan, 0, None).check_processors([request])
        return DecodeTask(row, request, plan)


def tokenize_prompt(model: Any, prompt: str | tuple[int, ...] | list[dict[str, str]], chat: bool) -> tuple[int, ...]:
    """Return the token ids of a row's prompt. Raises RequestError if the tokenizer cannot read it."""
    return _call_tokenizer(lambda: encode_prompt(model, prompt, chat))


def _make_infill_request(model: Any, infill: Infill, max_new_tokens: int) -> Request:
    """Make the request of a text with holes. Raises RequestError if the tokenizer cannot read it."""
    return _call_tokenizer(lambda: make_infill_request(model, replace(infill, max_new_tokens=max_new_tokens)))


def _call_tokenizer(make: Callable[[], T]) -> T:
    """Call `make`, which runs a tokenizer, and turn any exception of third-party code into RequestError."""
    try:
        with silence_transformers():
            return make()
    except DllmError:
        raise
    except Exception as error:  # templates and tokenizers raise nearly anything
        raise RequestError(f"the tokenizer cannot read this prompt ({one_line(error)})") from None
