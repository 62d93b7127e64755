"""The live view: a canvas while it denoises, and how many rows of a job are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from dllm.types import Step

PAUSE = 1 / 15
"""Least seconds between two drawings."""
SHARE = 15
"""A drawing is followed by at least so many times the time that it took, so that watching costs little."""
DECIDED, NEW, PENDING, WINDOW = "", "bold black on green", "bright_black", "yellow"
BLANK = "░"


class LiveDisplay:
    """Drawing on a terminal that follows the stream of steps."""

    def __init__(
        self, console: Console | None, tokenizer: Any, canvas: bool = True, rows: int | None = None, done: int = 0
    ) -> None:
        """Prepare the drawing.

        Args:
            console: The terminal; without one nothing is drawn.
            tokenizer: Shows tokens as text; None shows ids.
            canvas: Show the text of the batch's first open row.
            rows: Rows of the job, for a progress bar; None: no bar.
            done: Rows that an earlier run decoded.
        """
        self.console, self.canvas = console, canvas
        self.piece = make_token_formatter(tokenizer)
        self.next_drawing = 0.0  # seconds of the monotonic clock
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

    def __enter__(self) -> LiveDisplay:
        if self.live is not None:
            self.live.start()
            if self.bar is not None:
                self.draw()
            self.next_drawing = time.monotonic() + PAUSE
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, step: Step) -> None:
        """Draw a step, unless it is too early for the next drawing."""
        begun = time.monotonic()
        if self.live is None or begun < self.next_drawing:
            return
        if self.canvas and self.console is not None:
            busy = ((step.window.end > step.window.start) | step.window.commit).tolist()
            row = busy.index(True) if True in busy else 0
            self.picture = render_frame(TerminalFrame.of(step, row), self.piece, self.console)
        self.draw()
        now = time.monotonic()
        self.next_drawing = now + max(PAUSE, SHARE * (now - begun))

    def advance(self) -> None:
        """Count one more row as done."""
        if self.bar is not None:
            self.bar.advance(self.task)
            self.draw()

    def draw(self) -> None:
        """Draw the canvas and the bar."""
        assert self.live is not None
        parts = [self.picture] if self.bar is None else [self.picture, self.bar.get_renderable()]
        self.live.update(Group(*parts), refresh=True)


def make_token_formatter(tokenizer: Any) -> Callable[[int], str]:
    """Make the function that shows a token, which works each out once."""
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            known[token] = f"{token} " if tokenizer is None else tokenizer.decode([token]).replace("\n", "↵\n")
        return known[token]

    return piece


class TerminalFrame(NamedTuple):
    """Visible state of a row: columns from where its text begins to its end.

    Attributes:
        tokens: Tokens of the canvas.
        pending: Whether each is still to be decided.
        shown: Whether each was given, or decided by a forward.
        new: Columns decided just now.
        window: Columns the step worked on.
        decided: Number of tokens that were decided.
        wanted: Number of tokens to decide.
        forwards: Forwards of the row so far.
    """

    tokens: list[int]
    pending: list[bool]
    shown: list[bool]
    new: set[int]
    window: range
    decided: int
    wanted: int
    forwards: int

    @classmethod
    def of(cls, step: Step, row: int) -> TerminalFrame:
        """Read a row's answer after a step; of a text with holes the whole text, including what was given."""
        rows = step.canvas.rows
        start, limit = int(rows.prompt[row]), int(rows.limit[row])
        start = start if int(rows.text[row]) == start else 0
        given = rows.given[row, start:limit].tolist()
        when = step.ledger.when[row, start:limit].tolist()
        return cls(
            step.canvas.tokens[row, start:limit].tolist(),
            step.canvas.pending[row, start:limit].tolist(),
            [bool(w) or g for w, g in zip(when, given, strict=True)],
            set((step.window.columns[row][step.commit[row]] - start).tolist()),
            range(int(step.window.start[row]) - start, int(step.window.end[row]) - start),
            sum(bool(w) for w in when),
            given.count(False),
            int(step.nfe[row]),
        )


def render_frame(frame: TerminalFrame, piece: Callable[[int], str], console: Console) -> Panel:
    """Draw a row: columns decided before, decided just now, and pending."""
    title = (
        f"{frame.decided} of {frame.wanted} tokens · {frame.forwards} forwards · "
        f"{frame.decided / max(1, frame.forwards):.2f} per forward"
    )
    return Panel(
        _crop_to_console(_style_columns(frame, piece), console),
        title=title,
        title_align="left",
        border_style="bright_black",
    )


def _style_columns(frame: TerminalFrame, piece: Callable[[int], str]) -> list[tuple[str, str]]:
    """List text and style of each column that is there."""
    return [
        (BLANK, WINDOW if i in frame.window else PENDING)
        if pending
        else (piece(token), NEW if i in frame.new else DECIDED)
        for i, (token, pending, shown) in enumerate(zip(frame.tokens, frame.pending, frame.shown, strict=True))
        if pending or shown
    ]


def _crop_to_console(cells: list[tuple[str, str]], console: Console) -> Text:
    """Join the cells, leaving out lines where they are too many for the terminal."""
    room = max(1, console.height - 6)
    text = Text.assemble(*cells)
    lines = text.wrap(console, max(1, console.width - 4))
    if len(lines) <= room:
        return text
    # Keep the border between decided and pending text in view: there the text changes.
    edge = next((i for i, line in enumerate(lines) if BLANK in line.plain), len(lines))
    first = max(0, min(edge - room // 2, len(lines) - room))
    return Text("\n").join(lines[first : first + room])
