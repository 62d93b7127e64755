"""An answer that a caller waits for, and the updates that the caller gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from dllm.engine.results import Result
from dllm.requests import Request
from dllm.strategy import Strategy


class AnswerUpdate(NamedTuple):
    """The change of an answer since its previous update.

    Attributes:
        text: Text that is final now and was not before.
        draft: Provisional text behind the final text, if the ticket asked for drafts.
        result: The whole result, in the last update of an answer that succeeded.
        error: The reason, in the last update of an answer that failed.
    """

    text: str = ""
    draft: str | None = None
    result: Result | None = None
    error: Exception | None = None

    @property
    def last(self) -> bool:
        """True in the last update of an answer."""
        return self.result is not None or self.error is not None

    def merge(self, later: AnswerUpdate) -> AnswerUpdate:
        """Return this update and a later one as one, with the text of both and the newer draft."""
        return later._replace(text=self.text + later.text)


@dataclass(eq=False)
class Ticket:
    """A request that waits for its answer or is being decoded, and the function that receives the answer.

    Attributes:
        strategy: How it is decoded.
        width: Columns of the canvas on which it is decoded.
        on_update: Function that the engine's thread calls with every update; it must not block.
        drafts: Whether updates also hold provisional text.
        submitted_at: Time at which it began to wait, in seconds of `time.perf_counter`.
        abandoned: Whether the caller no longer waits for it. Any thread may set it at any time.
        delivered: Text that the caller has.
        to_repeat: Text that the caller has and that a run which replaces a failed one has not decoded again yet.
    """

    request: Request
    strategy: Strategy
    width: int
    on_update: Callable[[AnswerUpdate], None]
    drafts: bool = False
    submitted_at: float = field(default_factory=time.perf_counter)
    abandoned: bool = False
    delivered: str = ""
    to_repeat: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """The strategy and the width, which tickets must have in common to share a run."""
        return repr(self.strategy), self.width

    def restart(self) -> None:
        """Prepare for decoding from the beginning; text that was delivered is not delivered again."""
        self.to_repeat = self.delivered

    def deliver(self, update: AnswerUpdate) -> None:
        """Pass an update on, without the text that the caller already has.

        Raises:
            ArithmeticError: A run that replaces a failed one decoded another text than the failed run.
        """
        repeated, new = update.text[: len(self.to_repeat)], update.text[len(self.to_repeat) :]
        # An answer that ends before it has repeated everything differs too, though what it repeated was the same.
        if not self.to_repeat.startswith(repeated) or (update.result is not None and repeated != self.to_repeat):
            raise ArithmeticError("decoded once more, the answer came out differently")
        self.to_repeat = self.to_repeat[len(repeated) :]
        self.delivered += new
        if new or update.last or update.draft is not None:
            self.on_update(update._replace(text=new))
