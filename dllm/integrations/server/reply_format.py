"""Answers in the API's form: whole, or in chunks; with the figures of `dllm.metrics` beside its own."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dllm.engine.results import Result
from dllm.integrations.server.call_parsing import ApiCall
from dllm.metrics import Totals

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class ReplyFormat:
    """The words in which one kind of call is answered.

    prefix  of its identifier
    whole   what a response is
    chunk   what a piece of it is
    chat    answers are messages
    """

    prefix: str
    whole: str
    chunk: str
    chat: bool

    def text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}

    def piece(self, text: str, first: bool = False) -> dict[str, Any]:
        if not self.chat:
            return {"text": text}
        return {"delta": {"role": "assistant", "content": text} if first else {"content": text} if text else {}}


CHAT = ReplyFormat("chatcmpl", "chat.completion", "chat.completion.chunk", True)
TEXT = ReplyFormat("cmpl", "text_completion", "text_completion", False)


@dataclass(frozen=True)
class ReplyBuilder:
    """All that the answer of one call, or its chunks, have in common.

    Beside what the API has, `dllm` says what made an answer (strategy and seed), and of each choice how it was made; of
    chunks it is in the last of each choice, and in the one with the usage.
    """

    form: ReplyFormat
    model: str
    call: ApiCall
    identifier: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.form.prefix}-{self.identifier}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    @property
    def made_by(self) -> dict[str, Any]:
        return {"dllm": {"strategy": repr(self.call.strategy), "seed": self.call.seed}}

    def whole(self, results: Mapping[int, Result], seconds: float) -> dict[str, Any]:
        choices = [
            _build_choice(i, self.form.text(result.text or ""), _get_finish_reason(result))
            | {"dllm": self.figures(i, result)}
            for i, result in sorted(results.items())
        ]
        return self.head(self.form.whole) | self.made_by | {"choices": choices, "usage": self.usage(results, seconds)}

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk of a message: who speaks."""
        return self.head(self.form.chunk) | {"choices": [_build_choice(index, self.form.piece("", first=True))]}

    def chunk(self, index: int, text: str, result: Result | None = None) -> dict[str, Any]:
        """A piece of an answer; the last one brings the result."""
        piece = _build_choice(index, self.form.piece(text), None if result is None else _get_finish_reason(result))
        if result is not None:
            piece["dllm"] = self.figures(index, result)
        return self.head(self.form.chunk) | ({} if result is None else self.made_by) | {"choices": [piece]}

    def draft(self, index: int, text: str) -> dict[str, Any]:
        return self.head("dllm.draft") | {"choices": [], "draft": {"index": index, "text": text}}

    def totals(self, results: Mapping[int, Result], seconds: float) -> dict[str, Any]:
        """The chunk behind all others, for those who ask for it."""
        return self.head(self.form.chunk) | self.made_by | {"choices": [], "usage": self.usage(results, seconds)}

    def usage(self, results: Mapping[int, Result], seconds: float) -> dict[str, Any]:
        sums = Totals.of(list(results.values()), seconds)
        given = sum(map(len, self.call.prompts))
        return {
            "prompt_tokens": given,
            "completion_tokens": sums.tokens,
            "total_tokens": given + sums.tokens,
            "nfe": sums.nfe,
            "tokens_per_forward": sums.tokens_per_forward,
            "tokens_per_second": sums.tokens_per_second,
            "query_tokens": sums.queries,
            "certified_share": sums.certified_share,
        }

    def figures(self, index: int, result: Result) -> dict[str, Any]:
        return {
            "seed": self.call.requests[index].seed,
            "tokens": len(result.output_ids),
            "nfe": result.nfe,
            "tokens_per_forward": result.tokens_per_forward,
            "certified_share": result.certified_share,
            "seconds": result.seconds,
        }


def _build_choice(index: int, content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": None, "finish_reason": reason}


def _get_finish_reason(result: Result) -> str:
    return "stop" if result.stopped else "length"


def encode_event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
