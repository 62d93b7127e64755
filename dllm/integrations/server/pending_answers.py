"""One answer that somebody waits for, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from dllm.engine.results import Result
from dllm.requests import Request
from dllm.strategy import Strategy


class AnswerUpdate(NamedTuple):
    """What became of an answer since it was last told.

    text    that is final now and was not before
    draft   the text behind it as it stands, if asked for
    result  the whole, at the end
    error   at the end, what went wrong instead
    """

    text: str = ""
    draft: str | None = None
    result: Result | None = None
    error: Exception | None = None

    @property
    def last(self) -> bool:
        return self.result is not None or self.error is not None

    def then(self, later: AnswerUpdate) -> AnswerUpdate:
        """Both as one: nothing of the text is lost, and of drafts only the newest matters."""
        return later._replace(text=self.text + later.text)


@dataclass(eq=False)
class Ticket:
    """A request, and who is told of its answer.

    strategy  how it is decoded
    width     columns of the canvas on which it is written
    tell      called with news by the engine's thread; must not block
    drafts    also tell what is not final yet
    came      when it began to wait, seconds of `time.perf_counter`
    left      nobody waits for it any more; set by anyone at any time
    told      text that was told
    again     what of it is still to be said again by a run that replaces one that broke
    """

    request: Request
    strategy: Strategy
    width: int
    tell: Callable[[AnswerUpdate], None]
    drafts: bool = False
    came: float = field(default_factory=time.perf_counter)
    left: bool = False
    told: str = ""
    again: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What tickets have in common that share a run."""
        return repr(self.strategy), self.width

    def restart(self) -> None:
        """Decode from the beginning; what was told is not told again."""
        self.again = self.told

    def say(self, news: AnswerUpdate) -> None:
        """Tell, unless it was told already. Raises ArithmeticError where a second run says something else."""
        said, new = news.text[: len(self.again)], news.text[len(self.again) :]
        if not self.again.startswith(said) or (news.result is not None and said != self.again):
            raise ArithmeticError("decoded once more, the answer came out differently")
        self.again = self.again[len(said) :]
        self.told += new
        if new or news.last or news.draft is not None:
            self.tell(news._replace(text=new))
