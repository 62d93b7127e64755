"""A conversation in HTML, and what a session remembers of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.runs import AnswerRun, RunStatus

Message = dict[str, str]


@dataclass
class VisitorSession:
    """What one visitor has: never shared, and nothing else of a visitor is kept.

    messages  the conversation so far, without the answer that is being written
    run       the last answer; its question is the last message of the user
    lanes     the last race
    playing   counts the plays of the replay, so that a newer one ends an older
    """

    messages: list[Message] = field(default_factory=list)
    run: AnswerRun | None = None
    lanes: list[AnswerRun] = field(default_factory=list)
    playing: int = 0

    def stop(self) -> None:
        """End what is being written."""
        for run in [self.run, *self.lanes]:
            if run is not None:
                run.stop()

    def ask(self, text: str) -> list[Message]:
        """The conversation with a new question, and with the last answer if there is one."""
        return [*self.history(), {"role": "user", "content": text}]

    def history(self) -> list[Message]:
        """The conversation with the last answer; a question that got none is forgotten."""
        answer = self.answer()
        if answer is None:
            return self.messages[:-1]
        return [*self.messages, {"role": "assistant", "content": answer}]

    def answer(self) -> str | None:
        """The last answer's text; None where there is none."""
        if self.run is None or self.run.state is not RunStatus.DONE or self.run.result is None:
            return None
        return self.run.result.text


def render_conversation(messages: Sequence[Message]) -> str:
    """Messages, oldest first."""
    if not messages:
        return ""
    turns = "".join(_render_message(message) for message in messages)
    return f'<div class="dllm-talk" role="log" aria-label="conversation" tabindex="0">{turns}</div>'


def _render_message(message: Message) -> str:
    user = message["role"] == "user"
    kind, who = ("user", "You") if user else ("model", "Model")
    return f'<div class="dllm-turn dllm-{kind}"><b>{who}</b><p>{escape_html(message["content"])}</p></div>'
