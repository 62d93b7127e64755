"""From a stream of steps to what became final in each step: tokens and text by request, in batches of any size.

Final is the longest prefix of an answer that no later step can change. A policy that does not edit never changes what
is decided, so that is everything before the first pending column. Where a policy edits, it is everything before the
window, which never moves back. A text with holes is sent as a whole, including what was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dllm.engine.results import Collector
from dllm.requests import Request
from dllm.strategy import Strategy
from dllm.streaming.delta import Delta
from dllm.streaming.final_text import GrowingText
from dllm.streaming.provisional_text import render_draft
from dllm.types import Step


class Deltas:
    """A converter from steps to deltas.

    Use it as `for step in steps(...): for delta in deltas.add(step): ...`, and then `deltas.finish()`.

    Args:
        model: The model that decodes.
        requests: The requests, in the order in which they were given to `steps`.
        strategy: The strategy.
        drafts: Whether every step of a request makes a delta, with what is not final yet as a draft.

    Attributes:
        collector: Results of the requests that are finished.
        texts: Final text of each request that has a row, by its number.
        sent: Number of tokens that earlier deltas of a request contain, by its number.
        bound: First column that is not final yet, by the request's number.
    """

    def __init__(self, model: Any, requests: Sequence[Request], strategy: Strategy, drafts: bool = False) -> None:
        self.collector = Collector(model, requests, strategy)
        self.drafts, self.edits = drafts, strategy.policy.edits
        self.texts: dict[int, GrowingText] = {}
        self.sent: dict[int, int] = {}
        self.bound: dict[int, int] = {}

    def open(self, number: int, request: Request) -> None:
        """Expect a request that comes while others are decoded."""
        self.collector.open(number, request)

    def close(self, number: int) -> None:
        """Forget a request: nothing more is returned of it."""
        self.collector.close(number)
        for table in (self.texts, self.sent, self.bound):
            table.pop(number, None)

    def add(self, step: Step) -> list[Delta]:
        """Return what a step made final; the last deltas of requests that it found finished come first."""
        deltas = [self.last(place) for place in self.collector.add(step)]
        view = _HostCanvas.of(step, self.edits)
        busy = ((step.window.end > step.window.start) | step.window.commit).tolist()
        for row, place in enumerate(step.place.tolist()):
            if not busy[row] or place not in self.collector.requests:
                continue
            text, ids = self.grow(place, row, view)
            if self.drafts:
                growing = self.texts[place]
                pending = () if growing.ended else view.draft(row, self.bound[place], growing.end.ids)
                deltas.append(Delta(place, text, ids, draft=render_draft(growing, pending), pending=pending))
            elif text or ids:
                deltas.append(Delta(place, text, ids))
        return deltas

    def finish(self) -> list[Delta]:
        """Return the last deltas, when the stream of steps has ended."""
        return [self.last(place) for place in sorted(self.collector.finish_rows())]

    def grow(self, place: int, row: int, view: _HostCanvas) -> tuple[str, tuple[int, ...]]:
        """Return what a step made final in a row: its text, and those of its tokens that were not given."""
        request = self.collector.requests[place]
        if place not in self.texts:
            self.texts[place] = GrowingText(self.collector.ends[place])
            self.bound[place], self.sent[place] = 0 if request.holes else request.start, 0
        first, bound = self.bound[place], view.bound[row]
        if bound <= first:
            return "", ()
        self.bound[place] = bound
        before, tail = view.between(row, first, bound)
        text, ids = self.texts[place].grow([token for token, _ in before], tail)
        new = (*(token for token, given in before if not given), *ids)
        self.sent[place] += len(new)
        return text, new

    def last(self, place: int) -> Delta:
        """Return the rest of a request whose result is known."""
        sent = self.texts[place].text if place in self.texts else ""
        return Delta.of_result(place, self.collector.found[place], sent, self.sent.get(place, 0), self.drafts)


class _HostCanvas(NamedTuple):
    """A step's canvas on the host.

    Attributes:
        tokens: Tokens (b, t).
        pending: Columns (b, t) that are not decided.
        given: Columns (b, t) that the caller gave.
        text: By row, the first column behind all that was given, from which on an end token ends the row.
        limit: By row, the first column past the requested output.
        bound: By row, the first column that is not final.
    """

    tokens: Tensor
    pending: Tensor
    given: Tensor
    text: list[int]
    limit: list[int]
    bound: list[int]

    @classmethod
    def of(cls, step: Step, edits: bool) -> _HostCanvas:
        """Copy what is needed of a step to the host.

        Args:
            step: The step.
            edits: Whether the policy may change what it has decided.
        """
        canvas = step.canvas
        pending, limit = canvas.pending.cpu(), canvas.rows.limit
        t = pending.shape[1]
        head = step.window.start if edits else torch.where(pending, torch.arange(t), t).amin(1)
        bound = torch.minimum(head, limit).tolist()
        return cls(canvas.tokens.cpu(), pending, canvas.rows.given, canvas.rows.text.tolist(), limit.tolist(), bound)

    def between(self, row: int, first: int, bound: int) -> tuple[list[tuple[int, bool]], list[int]]:
        """Return a row's tokens in the columns from `first` to before `bound`, in two parts.

        Returns:
            The tokens up to the last given column, each with whether it was given; and the tokens behind it.
        """
        turn = min(max(self.text[row], first), bound)
        before = zip(self.tokens[row, first:turn].tolist(), self.given[row, first:turn].tolist(), strict=True)
        return list(before), self.tokens[row, turn:bound].tolist()

    def draft(self, row: int, first: int, stops: frozenset[int]) -> tuple[int | None, ...]:
        """Return a row's tokens from the column `first` on, up to its first end token; None where pending."""
        span = slice(first, self.limit[row])
        draft: list[int | None] = []
        for column, (token, pending) in enumerate(
            zip(self.tokens[row, span].tolist(), self.pending[row, span].tolist(), strict=True), start=first
        ):
            draft.append(None if pending else token)
            if not pending and token in stops and column >= self.text[row]:
                break
        return tuple(draft)
