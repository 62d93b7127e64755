"""Replies in the API's form, whole or in chunks, with the figures of `dllm.metrics` beside the API's own."""

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
"""The event that ends a stream."""


@dataclass(frozen=True)
class ReplyFormat:
    """The form in which one kind of call is answered.

    Attributes:
        prefix: Beginning of the reply's identifier.
        whole: Name of the kind of object that a whole reply is.
        chunk: Name of the kind of object that a chunk is.
        chat: Whether answers are messages.
    """

    prefix: str
    whole: str
    chunk: str
    chat: bool

    def format_answer(self, text: str) -> dict[str, Any]:
        """Return the content of a whole answer."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}

    def format_piece(self, text: str, first: bool = False) -> dict[str, Any]:
        """Return the content of a chunk; `first` is for the chunk that begins a message."""
        if not self.chat:
            return {"text": text}
        return {"delta": {"role": "assistant", "content": text} if first else {"content": text} if text else {}}


CHAT = ReplyFormat("chatcmpl", "chat.completion", "chat.completion.chunk", True)
TEXT = ReplyFormat("cmpl", "text_completion", "text_completion", False)


@dataclass(frozen=True)
class ReplyBuilder:
    """Builds the reply to one call, or the chunks of it.

    Beside the API's fields a reply has `dllm`: with the strategy and the seed at the top, and with the figures of an
    answer in its choice. In a stream the last chunk of each choice has both, and the chunk with the usage the former.

    Attributes:
        form: The form for this kind of call.
        model: Name of the model.
        call: The call.
        identifier: Part of the reply's id after the prefix.
        created: Time of the call, in seconds since 1970.
    """

    form: ReplyFormat
    model: str
    call: ApiCall
    identifier: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def build_whole(self, results: Mapping[int, Result], seconds: float) -> dict[str, Any]:
        """Return the whole reply.

        Args:
            results: Results by the place of the answer.
            seconds: Time since the call came.
        """
        choices = [
            _build_choice(i, self.form.format_answer(result.text or ""), _get_finish_reason(result))
            | {"dllm": self._build_figures(i, result)}
            for i, result in sorted(results.items())
        ]
        body = {"choices": choices, "usage": self._build_usage(results, seconds)}
        return self._build_head(self.form.whole) | self._build_origin() | body

    def build_opening(self, index: int) -> dict[str, Any]:
        """Return the first chunk of a message, which gives the role of its author."""
        return self._build_head(self.form.chunk) | {
            "choices": [_build_choice(index, self.form.format_piece("", first=True))]
        }

    def build_chunk(self, index: int, text: str, result: Result | None = None) -> dict[str, Any]:
        """Return a chunk of an answer; the last one has the result."""
        piece = _build_choice(
            index, self.form.format_piece(text), None if result is None else _get_finish_reason(result)
        )
        if result is not None:
            piece["dllm"] = self._build_figures(index, result)
        origin = {} if result is None else self._build_origin()
        return self._build_head(self.form.chunk) | origin | {"choices": [piece]}

    def build_draft(self, index: int, text: str) -> dict[str, Any]:
        """Return a chunk with the provisional text of an answer; its `choices` are empty, so that clients skip it."""
        return self._build_head("dllm.draft") | {"choices": [], "draft": {"index": index, "text": text}}

    def build_totals(self, results: Mapping[int, Result], seconds: float) -> dict[str, Any]:
        """Return the chunk behind all others that has the usage, for callers who ask for it."""
        body = {"choices": [], "usage": self._build_usage(results, seconds)}
        return self._build_head(self.form.chunk) | self._build_origin() | body

    def _build_head(self, kind: str) -> dict[str, Any]:
        """Return the fields that a reply and all chunks have."""
        return {
            "id": f"{self.form.prefix}-{self.identifier}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _build_origin(self) -> dict[str, Any]:
        """Return the field that says how to get the same answer again."""
        return {"dllm": {"strategy": repr(self.call.strategy), "seed": self.call.seed}}

    def _build_usage(self, results: Mapping[int, Result], seconds: float) -> dict[str, Any]:
        """Return the sums over all answers; a prompt counts once, however many answers it has."""
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

    def _build_figures(self, index: int, result: Result) -> dict[str, Any]:
        """Return the figures of one answer."""
        return {
            "seed": self.call.requests[index].seed,
            "tokens": len(result.output_ids),
            "nfe": result.nfe,
            "tokens_per_forward": result.tokens_per_forward,
            "certified_share": result.certified_share,
            "seconds": result.seconds,
        }


def _build_choice(index: int, content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    """Return a choice of a reply."""
    return {"index": index, **content, "logprobs": None, "finish_reason": reason}


def _get_finish_reason(result: Result) -> str:
    """Return the API's word for how an answer ended."""
    return "stop" if result.stopped else "length"


def encode_event(data: dict[str, Any], name: str | None = None) -> bytes:
    """Encode a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
