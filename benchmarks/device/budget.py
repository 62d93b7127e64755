"""The time that a script may take, start-up included, and keeps by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

BEGUN = time.monotonic()
"""When this process began to work: the scripts import this module before anything slow."""


class OutOfTime(BaseException):
    """The budget is spent. No `Exception`, or a compiler, say, would take it for a failure of its own."""


@dataclass(frozen=True)
class Budget:
    """Seconds of wall time, counted from the beginning of the process.

    Attributes:
        seconds: All that may be taken.
        begun: When the counting began, on the monotonic clock.
    """

    seconds: float
    begun: float = BEGUN

    @property
    def spent(self) -> float:
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    def part(self, share: float) -> Budget:
        """A budget of its own for one measurement: a share of the whole from now on, and no more than is left."""
        return Budget(min(share * self.seconds, self.left), time.monotonic())

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise `OutOfTime` in the body when the budget is spent. The main thread only.

        Python raises it between two of its own instructions, so one kernel or one call into a library is finished
        first.
        """

        def interrupt(number: int, frame: FrameType | None) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
