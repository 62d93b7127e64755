"""The models that a page may use: those named when it was started, each loaded when it is first wanted."""

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
    """A checkpoint as it was asked for.

    name    a folder, a Hub id, or "embedded"
    family  where its config.json does not tell
    """

    name: str
    family: str | None = None

    @classmethod
    def read(cls, text: str) -> NamedCheckpoint:
        """From `NAME` or `NAME=FAMILY`, as the command line takes it."""
        name, _, family = text.partition("=")
        return cls(name, family or None)

    @property
    def label(self) -> str:
        """What a page calls it: no folders of this machine."""
        short = Path(self.name).name if Path(self.name).is_dir() else self.name
        return f"{short} ({self.family})" if self.family else short


class ModelLibrary:
    """Models by their labels; one at a time is loaded or decodes.

    named    what may be used, the first by default
    loading  options of `dllm.load` for all of them
    longest  most new tokens that a page may ask for

    Raises ConfigError or CheckpointError where one of them is no checkpoint; no weights are read.
    """

    def __init__(
        self, named: Sequence[NamedCheckpoint], loading: dict[str, Any] | None = None, longest: int = 1024
    ) -> None:
        self.outlines: dict[str, ModelOutline] = {}
        self.named: dict[str, NamedCheckpoint] = {}
        for one in named:
            label = one.label
            if label in self.named:
                raise ConfigError(f"{label!r} names two models: give each folder a name of its own")
            self.named[label] = one
            self.outlines[label] = ModelOutline.of(one.name, one.family)
        self.loading, self.longest = loading or {}, longest
        self.models: dict[str, Any] = {}
        self.turns = TurnQueue()

    @property
    def labels(self) -> list[str]:
        return list(self.named)

    def causal(self, label: str) -> bool:
        """Whether it is a plain causal model, to which no strategy applies."""
        return self.outlines[label].family == "autoregressive"

    def outline(self, label: str) -> ModelOutline:
        if label not in self.outlines:
            raise ConfigError(f"unknown model {label!r}: choose from {', '.join(self.labels)}")
        return self.outlines[label]

    def model(self, label: str) -> Any:
        """The model, loaded if it was not, and run once so that no measured run pays for what comes first."""
        self.outline(label)
        if label not in self.models:
            one = self.named[label]
            self.models[label] = load(one.name, family=one.family, **self.loading)
            self.warm(self.models[label])
        return self.models[label]

    def warm(self, model: Any) -> None:
        """Decode a few tokens of nothing."""
        decode(model, Request((0,), 4, stop_ids=(), seed=0))

    def plan(self, choice: AnswerSettings) -> str:
        """What a choice would run. Raises ConfigError where it cannot work; needs no weights."""
        outline = self.outline(choice.model)
        return repr(choice.job(self.longest, self.causal(choice.model)).plan(outline, choice.length(self.longest)))

    def begin(self, choice: AnswerSettings, messages: Sequence[dict[str, str]]) -> AnswerRun:
        """Start to answer the last of some messages, when it is its turn.

        Raises ConfigError or RequestError for what can be seen to be wrong at once.
        """
        self.plan(choice)
        top = choice.recorded()
        job = choice.job(self.longest, self.causal(choice.model))

        def work(run: AnswerRun) -> None:
            with self.turns.turn(run.wait_for_turn) as come:
                if come:
                    model = self.model(choice.model)
                    task = job.task(model, PromptRow(1, 0, 0, _build_prompt(model, messages)))
                    run.tell(hint="" if _has_chat_template(model) else PLAIN)
                    decode_and_record(run, model, task, top)

        return AnswerRun(choice.model, messages[-1]["content"]).start(work)


def _has_chat_template(model: Any) -> bool:
    """Whether a model knows of conversations."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def _build_prompt(model: Any, messages: Sequence[dict[str, str]]) -> Any:
    """What a model is asked: all messages if it has a chat template, else the last one as plain text."""
    return [dict(message) for message in messages] if _has_chat_template(model) else messages[-1]["content"]
