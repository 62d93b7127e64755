"""The models that a page may use: those named when it was started, each loaded when it is first used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dllm.api import decode
from dllm.errors import ConfigError
from dllm.integrations.web.controls import AnswerSettings
from dllm.integrations.web.runs import AnswerRun, decode_and_record
from dllm.integrations.web.turn_queue import TurnQueue
from dllm.jobs import ModelOutline, PromptRow
from dllm.models import load
from dllm.requests import Request

PLAIN = "this model has no chat template: it goes on with the prompt as plain text, without what was said before"


class NamedCheckpoint(NamedTuple):
    """A checkpoint as the command line names it.

    Attributes:
        name: A folder, a Hub id, or "embedded".
        family: Its family, where config.json does not tell.
    """

    name: str
    family: str | None = None

    @classmethod
    def read(cls, text: str) -> NamedCheckpoint:
        """Read `NAME` or `NAME=FAMILY`."""
        name, _, family = text.partition("=")
        return cls(name, family or None)

    @property
    def label(self) -> str:
        """Name of the checkpoint on a page, without folders of this machine."""
        short = Path(self.name).name if Path(self.name).is_dir() else self.name
        return f"{short} ({self.family})" if self.family else short


class ModelLibrary:
    """Models by their labels. Only one at a time is loaded or decodes.

    Args:
        named: The checkpoints that may be used, the default one first. Their weights are not read yet.
        loading: Options of `dllm.load` for all of them.
        longest: Most new tokens that a page may ask for.

    Raises:
        ConfigError: Two checkpoints have the same label.
        CheckpointError: One of them is no checkpoint.
    """

    def __init__(
        self, named: Sequence[NamedCheckpoint], loading: dict[str, Any] | None = None, longest: int = 1024
    ) -> None:
        self.outlines: dict[str, ModelOutline] = {}
        self.named: dict[str, NamedCheckpoint] = {}
        for checkpoint in named:
            label = checkpoint.label
            if label in self.named:
                raise ConfigError(f"{label!r} names two models: give each folder a name of its own")
            self.named[label] = checkpoint
            self.outlines[label] = ModelOutline.of(checkpoint.name, checkpoint.family)
        self.loading, self.longest = loading or {}, longest
        self.models: dict[str, Any] = {}
        self.turns = TurnQueue()

    @property
    def labels(self) -> list[str]:
        """Labels of all models, the default one first."""
        return list(self.named)

    def is_causal(self, label: str) -> bool:
        """Return whether a model is a plain causal one, to which no strategy applies."""
        return self.outlines[label].family == "autoregressive"

    def outline(self, label: str) -> ModelOutline:
        """Return what is known of a model without its weights.

        Raises:
            ConfigError: There is no such model.
        """
        if label not in self.outlines:
            raise ConfigError(f"unknown model {label!r}: choose from {', '.join(self.labels)}")
        return self.outlines[label]

    def model(self, label: str) -> Any:
        """Return a model, which is loaded when it is used for the first time.

        Raises:
            ConfigError: There is no such model.
            CheckpointError: Its weights cannot be read.
        """
        self.outline(label)
        if label not in self.models:
            checkpoint = self.named[label]
            self.models[label] = load(checkpoint.name, family=checkpoint.family, **self.loading)
            # The first run of a model allocates and compiles, which no measured run should pay for.
            decode(self.models[label], Request((0,), 4, stop_ids=(), seed=0))
        return self.models[label]

    def describe_plan(self, choice: AnswerSettings) -> str:
        """Return what would decode an answer, as text; no weights are needed.

        Raises:
            ConfigError: The settings cannot work.
        """
        outline = self.outline(choice.model)
        return repr(choice.job(self.longest, self.is_causal(choice.model)).plan(outline, choice.length(self.longest)))

    def start_answer(self, choice: AnswerSettings, messages: Sequence[dict[str, str]]) -> AnswerRun:
        """Start to answer the last of some messages as soon as it is its turn.

        Raises:
            ConfigError: The settings cannot work, as far as that is known without weights. Other errors end the run.
        """
        self.describe_plan(choice)
        top = choice.recorded()
        job = choice.job(self.longest, self.is_causal(choice.model))

        def work(run: AnswerRun) -> None:
            with self.turns.turn(run.wait_for_turn) as has_turn:
                if has_turn:
                    model = self.model(choice.model)
                    task = job.task(model, PromptRow(1, 0, 0, _build_prompt(model, messages)))
                    run.update(hint="" if _has_chat_template(model) else PLAIN)
                    decode_and_record(run, model, task, top)

        return AnswerRun(choice.model, messages[-1]["content"]).start(work)


def _has_chat_template(model: Any) -> bool:
    """Return whether a model's tokenizer has a template for conversations."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def _build_prompt(model: Any, messages: Sequence[dict[str, str]]) -> Any:
    """Return all messages for a model with a chat template, and the last one as plain text for another."""
    return [dict(message) for message in messages] if _has_chat_template(model) else messages[-1]["content"]
