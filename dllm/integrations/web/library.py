"""The models that a page may use: those named when it was started, each loaded when it is first wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dllm import results
from dllm.errors import ConfigError
from dllm.integrations.web.controls import Choice
from dllm.integrations.web.runs import Run, decode
from dllm.integrations.web.turns import Turns
from dllm.jobs import Outline, Row
from dllm.models import load
from dllm.requests import Request

PLAIN = "this model has no chat template: it goes on with the prompt as plain text, without what was said before"


class Named(NamedTuple):
    """A checkpoint as it was asked for.

    name    a folder, a Hub id, or "embedded"
    family  where its config.json does not tell
    """

    name: str
    family: str | None = None

    @classmethod
    def read(cls, text: str) -> Named:
        """From `NAME` or `NAME=FAMILY`, as the command line takes it."""
        name, _, family = text.partition("=")
        return cls(name, family or None)

    @property
    def label(self) -> str:
        """What a page calls it: no folders of this machine."""
        short = Path(self.name).name if Path(self.name).is_dir() else self.name
        return f"{short} ({self.family})" if self.family else short


class Library:
    """Models by their labels; one at a time is loaded or decodes.

    named    what may be used, the first by default
    loading  options of `dllm.load` for all of them
    longest  most new tokens that a page may ask for

    Raises ConfigError or CheckpointError where one of them is no checkpoint; no weights are read.
    """

    def __init__(self, named: Sequence[Named], loading: dict[str, Any] | None = None, longest: int = 1024) -> None:
        self.outlines: dict[str, Outline] = {}
        self.named: dict[str, Named] = {}
        for one in named:
            label = one.label
            if label in self.named:
                raise ConfigError(f"{label!r} names two models: give each folder a name of its own")
            self.named[label] = one
            self.outlines[label] = Outline.of(one.name, one.family)
        self.loading, self.longest = loading or {}, longest
        self.models: dict[str, Any] = {}
        self.turns = Turns()

    @property
    def labels(self) -> list[str]:
        return list(self.named)

    def causal(self, label: str) -> bool:
        """Whether it is a plain causal model, to which no strategy applies."""
        return self.outlines[label].family == "autoregressive"

    def outline(self, label: str) -> Outline:
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
        results.decode(model, Request((0,), 4, stop_ids=(), seed=0))

    def plan(self, choice: Choice) -> str:
        """What a choice would run. Raises ConfigError where it cannot work; needs no weights."""
        outline = self.outline(choice.model)
        return repr(choice.job(self.longest, self.causal(choice.model)).plan(outline, choice.length(self.longest)))

    def begin(self, choice: Choice, messages: Sequence[dict[str, str]]) -> Run:
        """Start to answer the last of some messages, when it is its turn.

        Raises ConfigError or RequestError for what can be seen to be wrong at once.
        """
        self.plan(choice)
        top = choice.recorded()
        job = choice.job(self.longest, self.causal(choice.model))

        def work(run: Run) -> None:
            with self.turns.turn(run.wait_for_turn) as come:
                if come:
                    model = self.model(choice.model)
                    task = job.task(model, Row(1, 0, 0, prompt(model, messages)))
                    run.tell(hint="" if templated(model) else PLAIN)
                    decode(run, model, task, top)

        return Run(choice.model, messages[-1]["content"]).start(work)


def templated(model: Any) -> bool:
    """Whether a model knows of conversations."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def prompt(model: Any, messages: Sequence[dict[str, str]]) -> Any:
    """What a model is asked: all messages if it has a chat template, else the last one as plain text."""
    return [dict(message) for message in messages] if templated(model) else messages[-1]["content"]
