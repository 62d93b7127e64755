"""Display of a training run: a line for each event, on stderr."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.text import Text

from dllm.training.events import (
    AnswerSampled,
    CheckpointSaved,
    Event,
    LossEvaluated,
    LossLogged,
    ModelExported,
    RunPrepared,
)

SHOWN = 400
"""Most characters of an answer that are shown."""


class TrainingDisplay:
    """Listener of `dllm.training.run.run_training`; with `quiet` it draws nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.steps, self.started, self.first = 0, time.monotonic(), 0

    def __call__(self, event: Event) -> None:
        for line, style in self.lines(event):
            self.console.print(Text(line, style), soft_wrap=True)

    def lines(self, event: Event) -> list[tuple[str, str]]:
        """List text and style of the lines of an event."""
        if isinstance(event, RunPrepared):
            self.steps, self.first, self.started = event.steps, event.start, time.monotonic()
            return self.prepared(event)
        if isinstance(event, LossLogged):
            figures = f"loss {event.loss:.4f}  rate {event.rate:.2e}  norm {event.norm:.2f}"
            return [(f"step {event.step}/{self.steps}  {figures}  {self.left(event.step)}", "")]
        if isinstance(event, LossEvaluated):
            return [(f"step {event.step}/{self.steps}  held-out loss {event.loss:.4f}", "bold cyan")]
        if isinstance(event, AnswerSampled):
            return [(_shorten_text(event.prompt), "dim"), (_shorten_text(event.answer) or "(nothing)", "green")]
        if isinstance(event, CheckpointSaved):
            return [(f"step {event.step}/{self.steps}  checkpoint saved", "dim")]
        assert isinstance(event, ModelExported)
        more = f", adapter in {event.adapter}" if event.adapter else ""
        return [(f"model in {event.folder}{more}: dllm decode --model {event.folder}", "bold green")]

    def prepared(self, event: RunPrepared) -> list[tuple[str, str]]:
        """List the lines of a run that is about to begin."""
        lines: list[tuple[str, Any]] = [(f"data: {event.report.lines()[0]}", "")]
        lines += [(f"data: {line}", "yellow") for line in event.report.lines()[1:]]
        data = f"{event.samples:,} samples in {event.rows:,} rows ({event.filled:.0%} filled), {event.held:,} held out"
        what = f"{event.trained:,} of {event.parameters:,} parameters trained"
        lines.append((f"{data}; {what}; {event.processes} x {event.device}", ""))
        if event.start:
            lines.append((f"going on from the checkpoint at step {event.start} of {event.steps}", "yellow"))
        return lines

    def left(self, step: int) -> str:
        """Format the seconds a step takes, and the time to the end."""
        pace = (time.monotonic() - self.started) / max(1, step - self.first)
        minutes, seconds = divmod(round(pace * (self.steps - step)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{pace:.2f} s a step, {hours}:{minutes:02}:{seconds:02} left"


def _shorten_text(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"
