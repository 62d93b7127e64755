"""The live view: a canvas while it denoises, and how many rows of a job are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from dllm.jobs import Denoised
    from dllm.types import Step

PAUSE = 1 / 15
"""Least seconds between two drawings, so that watching costs little."""
DECIDED, NEW, PENDING, WINDOW = "", "bold black on green", "bright_black", "yellow"
BLANK = "░"


class Screen:
    """Draws on a terminal, from what the stream of steps says; without `console` it does nothing.

    tokenizer  shows tokens as text; None: as ids
    canvas     show the text of the batch's first open row
    rows       how many rows a job has, for a progress bar; None: no bar
    done       rows that an earlier run did
    """

    def __init__(
        self, console: Console | None, tokenizer: Any, canvas: bool = True, rows: int | None = None, done: int = 0
    ) -> None:
        self.console, self.canvas = console, canvas
        self.piece = pieces(tokenizer)
        self.drawn = 0.0
        self.picture: RenderableType = Text()
        self.bar: Progress | None = None
        self.live: Live | None = None
        if console is None:
            return
        if rows is not None:
            columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task("rows", total=rows, completed=done)
        self.live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, vertical_overflow="crop"
        )

    def __enter__(self) -> Screen:
        if self.live is not None:
            self.live.start()
            self.draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, event: Denoised) -> None:
        """Draw a step, unless the last drawing was a moment ago."""
        if self.live is None or time.monotonic() - self.drawn < PAUSE:
            return
        if self.canvas and self.console is not None:
            busy = ((event.step.window.end > event.step.window.start) | event.step.window.commit).tolist()
            self.picture = picture(event.step, busy.index(True) if True in busy else 0, self.piece, self.console)
        self.draw()

    def advance(self) -> None:
        """One more row is done."""
        if self.bar is not None:
            self.bar.advance(self.task)
            self.draw()

    def draw(self) -> None:
        assert self.live is not None
        parts = [self.picture] if self.bar is None else [self.picture, self.bar.get_renderable()]
        self.live.update(Group(*parts), refresh=True)
        self.drawn = time.monotonic()


def pieces(tokenizer: Any) -> Callable[[int], str]:
    """How a token is shown, each worked out once."""
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            known[token] = f"{token} " if tokenizer is None else tokenizer.decode([token]).replace("\n", "↵\n")
        return known[token]

    return piece


def picture(step: Step, row: int, piece: Callable[[int], str], console: Console) -> Panel:
    """One row's answer after a step: what is decided, what was decided just now, and what is pending.

    With holes it is the whole text, what was given included.
    """
    start, limit = int(step.canvas.rows.prompt[row]), int(step.canvas.rows.limit[row])
    start = start if int(step.canvas.rows.text[row]) == start else 0
    given = step.canvas.rows.given[row, start:limit].tolist()
    tokens, pending = step.canvas.tokens[row, start:limit].tolist(), step.canvas.pending[row, start:limit].tolist()
    when = step.ledger.when[row, start:limit].tolist()
    new = set((step.window.columns[row][step.commit[row]] - start).tolist())
    window = range(int(step.window.start[row]) - start, int(step.window.end[row]) - start)
    cells = [
        (BLANK, WINDOW if i in window else PENDING) if pending[i] else (piece(tokens[i]), NEW if i in new else DECIDED)
        for i in range(limit - start)
        if pending[i] or when[i] or given[i]
    ]
    decided, forwards = sum(bool(w) for w in when), int(step.nfe[row])
    title = (
        f"{decided} of {given.count(False)} tokens · {forwards} forwards · {decided / max(1, forwards):.2f} per forward"
    )
    return Panel(crop(cells, console), title=title, title_align="left", border_style="bright_black")


def crop(cells: list[tuple[str, str]], console: Console) -> Text:
    """The cells, without the first ones where they are too many for the terminal."""
    room = max(1, console.height - 6)
    text = Text.assemble(*cells)
    lines = text.wrap(console, max(1, console.width - 4))
    if len(lines) <= room:
        return text
    edge = next((i for i, line in enumerate(lines) if BLANK in line.plain), len(lines))
    first = max(0, min(edge - room // 2, len(lines) - room))
    return Text("\n").join(lines[first : first + room])
