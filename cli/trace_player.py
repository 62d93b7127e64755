"""Player of a trace in the terminal: frames follow each other by themselves or at a key."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .keyboard import KeyReader
from .live_display import TerminalFrame, render_frame

if TYPE_CHECKING:
    from dllm.tracing import ReplayedCanvas, TraceRun

LEAST, MOST = 0.01, 64.0
"""Slowest and fastest speed that keys reach, in steps a second."""


def make_frames(run: TraceRun, place: int) -> list[TerminalFrame]:
    """Make a frame of a request for each step that worked on it."""
    from dllm.tracing import replay_run

    return [_make_frame(board, row["range"]) for _, row, board in replay_run(run) if row["request"] == place]


def _make_frame(board: ReplayedCanvas, span: tuple[int, int]) -> TerminalFrame:
    """Read the visible state of a canvas.

    Args:
        board: The canvas.
        span: First and last column that the step worked on, the last exclusive.
    """
    start, limit = board.start, board.limit
    tokens, when, given = board.tokens[start:limit], board.when[start:limit], board.given[start:limit]
    return TerminalFrame(
        [token or 0 for token in tokens],
        [token is None for token in tokens],
        [bool(w) or g for w, g in zip(when, given, strict=True)],
        {column - start for column in board.new},
        range(span[0] - start, span[1] - start),
        sum(bool(w) for w in when),
        given.count(False),
        board.nfe,
    )


def format_steps(run: TraceRun, place: int, pieces: Mapping[int, str]) -> Iterator[str]:
    """Write a line for each step: forwards so far, whether its commits are certified, and tokens by column."""
    for step in run.steps:
        for row in step["rows"]:
            if row["request"] != place:
                continue
            token = dict(zip(row["columns"], row["tokens"], strict=True))
            decided = " ".join(f"{column}:{pieces.get(token[column], token[column])!r}" for column in row["commit"])
            back = f"  taken back: {' '.join(map(str, row['revoke']))}" if row.get("revoke") else ""
            sure = "certified" if row["certified"] else "parallel" if row["parallel"] else "single"
            yield f"step {step['step']}  NFE {row['nfe']}  {sure:9}  {decided}{back}"


class TracePlayer:
    """Player of frames on a terminal."""

    def __init__(self, shown: list[TerminalFrame], pieces: Mapping[int, str], console: Console, speed: float) -> None:
        self.frames, self.console, self.speed = shown, console, speed
        self.pieces = {token: piece.replace("\n", "↵\n") for token, piece in pieces.items()}
        self.at, self.going = 0, True

    def run(self) -> None:
        """Play to the end, or until q or Ctrl-C."""
        if not self.frames:
            return
        with KeyReader() as keys, Live(console=self.console, auto_refresh=False, transient=True) as live:
            self.draw(live)
            while self.going or self.at < len(self.frames) - 1:
                key = keys.wait(1 / self.speed if self.going else None)
                if key in ("q", "\x03"):
                    break
                if key is None and self.at >= len(self.frames) - 1:
                    break
                self.press(key)
                self.draw(live)
        self.console.print(self.scene())

    def press(self, key: str | None) -> None:
        """Do what a key asks for; None means that the time for the next step has come."""
        if key == " ":
            self.going = not self.going
        elif key in ("+", "-"):
            self.speed = min(MOST, max(LEAST, self.speed * (2 if key == "+" else 0.5)))
        elif key in ("n", "right", "p", "left"):
            self.going = False
            self.move(1 if key in ("n", "right") else -1)
        elif key is None:
            self.move(1)

    def move(self, by: int) -> None:
        self.at = min(len(self.frames) - 1, max(0, self.at + by))

    def scene(self) -> Group:
        panel = render_frame(self.frames[self.at], lambda token: self.pieces.get(token, f"{token} "), self.console)
        state = "" if self.going else " · stopped"
        return Group(panel, Text(f"step {self.at + 1} of {len(self.frames)} · {self.speed:g} a second{state}", "dim"))

    def draw(self, live: Live) -> None:
        live.update(self.scene(), refresh=True)
        self.drawn = time.monotonic()
