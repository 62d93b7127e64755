"""Replaying a trace: the content of a request's canvas after each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dllm.tracing.reading import TraceRun

T = TypeVar("T")


@dataclass
class ReplayedCanvas:
    """The canvas of one request. Lists have one entry a column.

    Attributes:
        tokens: Token; None where pending.
        given: Whether the caller gave the token.
        when: Forward that last decided the token, counted from 1; 0 if none did.
        parallel: Whether the token was decided together with others.
        certified: Whether these were decided provably as in greedy joint decoding.
        limit: First column past the requested output.
        nfe: Forwards so far.
        new: Columns that the last step decided.
        revoked: Columns that the last step made pending again.
    """

    tokens: list[int | None]
    given: list[bool]
    when: list[int]
    parallel: list[bool]
    certified: list[bool]
    limit: int
    nfe: int = 0
    new: set[int] = field(default_factory=set)
    revoked: set[int] = field(default_factory=set)

    @classmethod
    def blank(cls, request: dict[str, Any], columns: int) -> ReplayedCanvas:
        """Make the canvas before the first step.

        Args:
            request: The request, as the trace holds it.
            columns: Width of the canvas.
        """
        prompt, holes = request["prompt"], set(request["holes"])
        given = [column < len(prompt) and column not in holes for column in range(columns)]
        tokens = [prompt[column] if given[column] else None for column in range(columns)]
        no = [False] * columns
        return cls(tokens, given, [0] * columns, no, list(no), len(prompt) + request["max_new_tokens"])

    @property
    def start(self) -> int:
        """First column to be shown: the end of the prompt, or 0 if there are holes in it."""
        end = max((i + 1 for i, given in enumerate(self.given) if given), default=0)
        return end if all(self.given[:end]) else 0

    def apply(self, row: dict[str, Any]) -> None:
        """Apply a row of a step to the canvas."""
        candidate = dict(zip(row["columns"], row["tokens"], strict=True))
        self.nfe, self.limit = row["nfe"], row.get("limit", self.limit)
        self.new, self.revoked = set(row["commit"]), set(row.get("revoke", ()))
        for column in self.new:
            fresh = self.tokens[column] is None  # a replaced token counts as decided alone
            self.tokens[column], self.when[column] = candidate[column], self.nfe
            self.parallel[column] = fresh and row["parallel"]
            self.certified[column] = fresh and row["certified"]
        for column in self.revoked:
            self.tokens[column], self.when[column] = None, 0
            self.parallel[column] = self.certified[column] = False
        if "moved" in row:
            self.move(row["moved"])

    def move(self, moved: list[int]) -> None:
        """Rearrange the columns.

        Args:
            moved: For every column the one that it was before; -1 where it is new.
        """
        self.tokens = _rearrange(self.tokens, moved, None)
        self.given = _rearrange(self.given, moved, False)
        self.when = _rearrange(self.when, moved, 0)
        self.parallel = _rearrange(self.parallel, moved, False)
        self.certified = _rearrange(self.certified, moved, False)
        self.new = {place for place, column in enumerate(moved) if column in self.new}
        self.revoked = {place for place, column in enumerate(moved) if column in self.revoked}


def _rearrange(values: list[T], moved: list[int], blank: T) -> list[T]:
    """Return the values of columns that have moved, with `blank` for new columns."""
    return [values[column] if column >= 0 else blank for column in moved]


def replay_run(run: TraceRun) -> Iterator[tuple[dict[str, Any], dict[str, Any], ReplayedCanvas]]:
    """Replay a run.

    Yields:
        Every row of the run in order: its step, the row, and the request's canvas after it. The canvas of a request is
        the same object each time.
    """
    canvases = [ReplayedCanvas.blank(request, run.columns) for request in run.requests]
    for step in run.steps:
        for row in step["rows"]:
            canvas = canvases[row["request"]]
            canvas.apply(row)
            yield step, row, canvas
