"""A visitor's session, and a conversation in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.runs import AnswerRun, RunStatus

Message = dict[str, str]


@dataclass
class VisitorSession:
    """State of one visitor. It is never shared, and nothing else of a visitor is kept.

    Attributes:
        messages: The conversation so far, without the answer that is being written.
        run: The last answer; its question is the last message of the user.
        lanes: The answers of the last race.
        playing: Number of times that the replay was started or stopped, so that a playback sees that it is outdated.
    """

    messages: list[Message] = field(default_factory=list)
    run: AnswerRun | None = None
    lanes: list[AnswerRun] = field(default_factory=list)
    playing: int = 0

    def stop(self) -> None:
        """Stop all answers that are being written."""
        for run in [self.run, *self.lanes]:
            if run is not None:
                run.stop()

    def add_question(self, text: str) -> list[Message]:
        """Return the conversation with a new question, and with the last answer if there is one."""
        return [*self._answered_messages(), {"role": "user", "content": text}]

    def _answered_messages(self) -> list[Message]:
        """Return the conversation with the last answer; a last question that got none is left out."""
        answer = self._last_answer()
        if answer is None:
            return self.messages[:-1]
        return [*self.messages, {"role": "assistant", "content": answer}]

    def _last_answer(self) -> str | None:
        """Return the last answer's text, or None if it is not complete."""
        if self.run is None or self.run.state is not RunStatus.DONE or self.run.result is None:
            return None
        return self.run.result.text


def render_conversation(messages: Sequence[Message]) -> str:
    """Render messages, oldest first."""
    if not messages:
        return ""
    turns = "".join(_render_message(message) for message in messages)
    return f'<div class="dllm-talk" role="log" aria-label="conversation" tabindex="0">{turns}</div>'


def _render_message(message: Message) -> str:
    """Render one message with its author."""
    user = message["role"] == "user"
    kind, author = ("user", "You") if user else ("model", "Model")
    return f'<div class="dllm-turn dllm-{kind}"><b>{author}</b><p>{escape_html(message["content"])}</p></div>'
