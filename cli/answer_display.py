"""One answer while it is written: a canvas that denoises, or text as it becomes final."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from .live_display import LiveDisplay


class AnswerDisplay:
    """Decodes one request and shows it.

    live  draw the canvas while it denoises; else text comes as it becomes final

    text     what was final when it ended
    result   None if it was stopped
    stopped  by Ctrl-C
    """

    def __init__(self, model: Any, request: Any, plan: Any, console: Console, live: bool) -> None:
        self.model, self.request, self.plan, self.console, self.live = model, request, plan, console, live
        self.text, self.result, self.stopped = "", None, False

    def run(self) -> None:
        """Decode to the end, or until Ctrl-C."""
        from dllm.strategy import Strategy

        drawn = self.live and isinstance(self.plan, Strategy)
        try:
            with (
                _delay_interrupts() as breathe,
                LiveDisplay(self.console if drawn else None, self.model.tokenizer) as screen,
            ):
                for delta in self.deltas(screen, breathe):
                    self.text += delta.text
                    self.result = delta.result or self.result
                    if not drawn:
                        self.write(delta.text)
        except KeyboardInterrupt:
            self.stopped = True
        self.write(self.text if drawn else "", end="\n")

    def deltas(self, screen: LiveDisplay, breathe: Callable[[], None]) -> Iterator[Any]:
        """What becomes final; every step is drawn on the way, and between two of them it may be stopped."""
        from dllm.api import stream
        from dllm.engine.loop import steps
        from dllm.strategy import Strategy
        from dllm.streaming import Deltas

        if not isinstance(self.plan, Strategy):
            for delta in stream(self.model, self.request, self.plan):
                breathe()
                yield delta
            return
        deltas = Deltas(self.model, [self.request], self.plan)
        for step in steps(self.model, [self.request], self.plan):
            screen.show(step)
            breathe()
            yield from deltas.add(step)
        yield from deltas.finish()

    def write(self, text: str, end: str = "") -> None:
        """Text on stdout: as it is, and on a terminal without what would move the cursor."""
        file = self.console.file
        file.write((replace_control_characters(text) if self.console.is_terminal else text) + end)
        file.flush()


@contextmanager
def _delay_interrupts() -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C takes effect where the given function is called, which then raises KeyboardInterrupt.

    Raised just anywhere it is lost now and then: Python drops what a callback or a destructor raises. The second
    Ctrl-C is not waited for.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def note(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def breathe() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield breathe
    finally:
        signal.signal(signal.SIGINT, before)


def replace_control_characters(text: str) -> str:
    """A text in which no character controls a terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)
