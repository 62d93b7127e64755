"""A trace played again: what the canvas of a request held after each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dllm.tracing.reading import TraceRun


@dataclass
class ReplayedCanvas:
    """One request's canvas, by column.

    tokens     what it holds; None where pending
    given      what the caller gave
    when       the forward that last decided it; 0 where none did
    parallel   decided together with another
    certified  ... and provably as greedy joint decoding
    limit      first column past the requested output
    nfe        forwards so far
    new        columns decided by the last step
    revoked    columns that it made pending again
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
        """The canvas before the first step."""
        prompt, holes = request["prompt"], set(request["holes"])
        given = [column < len(prompt) and column not in holes for column in range(columns)]
        tokens = [prompt[column] if given[column] else None for column in range(columns)]
        no = [False] * columns
        return cls(tokens, given, [0] * columns, no, list(no), len(prompt) + request["max_new_tokens"])

    @property
    def start(self) -> int:
        """First column to be shown: the end of the prompt, or with holes the first."""
        end = max((i + 1 for i, given in enumerate(self.given) if given), default=0)
        return end if all(self.given[:end]) else 0

    def apply(self, row: dict[str, Any]) -> None:
        """Do what a step did."""
        candidate = dict(zip(row["columns"], row["tokens"], strict=True))
        self.nfe, self.limit = row["nfe"], row.get("limit", self.limit)
        self.new, self.revoked = set(row["commit"]), set(row.get("revoke", ()))
        for column in self.new:
            fresh = self.tokens[column] is None
            self.tokens[column], self.when[column] = candidate[column], self.nfe
            self.parallel[column] = fresh and row["parallel"]
            self.certified[column] = fresh and row["certified"]
        for column in self.revoked:
            self.tokens[column], self.when[column] = None, 0
            self.parallel[column] = self.certified[column] = False
        if "moved" in row:
            self.move(row["moved"])

    def move(self, moved: list[int]) -> None:
        """Put every column where it has moved to."""
        for name, blank in (("tokens", None), ("given", False), ("when", 0), ("parallel", False), ("certified", False)):
            plane = getattr(self, name)
            setattr(self, name, [plane[column] if column >= 0 else blank for column in moved])
        self.new = {place for place, column in enumerate(moved) if column in self.new}
        self.revoked = {place for place, column in enumerate(moved) if column in self.revoked}


def replay_run(run: TraceRun) -> Iterator[tuple[dict[str, Any], dict[str, Any], ReplayedCanvas]]:
    """Every row of a run in order: its step, itself, and the request's canvas after it (the same object each time)."""
    found = [ReplayedCanvas.blank(request, run.columns) for request in run.requests]
    for step in run.steps:
        for row in step["rows"]:
            found[row["request"]].apply(row)
            yield step, row, found[row["request"]]
