"""Display of one answer while it is written: a canvas that denoises, or text as it becomes final."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .live_display import LiveDisplay

if TYPE_CHECKING:
    from dllm.engine.results import Result
    from dllm.streaming import Delta


class AnswerDisplay:
    """Decoding of one request, shown as it goes.

    Attributes:
        model: The model.
        request: The request.
        plan: Strategy, or plan for a plain causal model.
        console: Where the answer is shown.
        live: Draw the canvas while it denoises; otherwise text is written as it becomes final.
        text: The text that was final when decoding ended.
        result: The result; None if decoding was stopped.
        stopped: Whether Ctrl-C stopped it.
    """

    def __init__(self, model: Any, request: Any, plan: Any, console: Console, live: bool) -> None:
        self.model, self.request, self.plan, self.console, self.live = model, request, plan, console, live
        self.text, self.stopped = "", False
        self.result: Result | None = None

    def run(self) -> None:
        """Decode to the end, or until Ctrl-C."""
        from dllm.strategy import Strategy

        drawn = self.live and isinstance(self.plan, Strategy)
        try:
            with (
                _delay_interrupts() as raise_if_interrupted,
                LiveDisplay(self.console if drawn else None, self.model.tokenizer) as display,
            ):
                for delta in self.deltas(display, raise_if_interrupted):
                    self.text += delta.text
                    self.result = delta.result or self.result
                    if not drawn:
                        self.write(delta.text)
        except KeyboardInterrupt:
            self.stopped = True
        self.write(self.text if drawn else "", end="\n")

    def deltas(self, display: LiveDisplay, raise_if_interrupted: Callable[[], None]) -> Iterator[Delta]:
        """Yield what becomes final. Every step is drawn on the way, and decoding may be stopped between two steps."""
        from dllm.api import stream
        from dllm.engine.loop import steps
        from dllm.strategy import Strategy
        from dllm.streaming import Deltas

        if not isinstance(self.plan, Strategy):
            for delta in stream(self.model, self.request, self.plan):
                raise_if_interrupted()
                yield delta
            return
        deltas = Deltas(self.model, [self.request], self.plan)
        for step in steps(self.model, [self.request], self.plan):
            display.show(step)
            raise_if_interrupted()
            yield from deltas.add(step)
        yield from deltas.finish()

    def write(self, text: str, end: str = "") -> None:
        """Write text to stdout: as it is to a file, and to a terminal without characters that would control it."""
        file = self.console.file
        file.write((replace_control_characters(text) if self.console.is_terminal else text) + end)
        file.flush()


@contextmanager
def _delay_interrupts() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C take effect only where the yielded function is called, which then raises KeyboardInterrupt.

    Raised at an arbitrary place it would be lost now and then, as Python drops exceptions of callbacks and destructors.
    The second Ctrl-C is not delayed.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def handle_signal(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    def raise_if_interrupted() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle_signal)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def replace_control_characters(text: str) -> str:
    """Replace the characters of a text that would control a terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)
