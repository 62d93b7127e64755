"""The second tab: a recorded answer step by step, with the predictions of every position."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dllm.integrations.web.candidates_html import render_candidates
from dllm.integrations.web.canvas_html import COLOURS, CanvasView, render_canvas, render_legend
from dllm.integrations.web.chat_html import VisitorSession
from dllm.integrations.web.figures_html import render_note, render_step_line
from dllm.integrations.web.html_block import QUIET, make_html_block
from dllm.integrations.web.runs import AnswerRun
from dllm.integrations.web.token_text import TokenDisplay

SOURCES = ("conversation", "race, lane A", "race, lane B")


class ReplayTab:
    """The tab; make it inside a `gr.Blocks`."""

    def __init__(self, session: gr.State, tab: Any) -> None:
        self.session = session
        self.source = gr.Radio(list(SOURCES), value=SOURCES[0], label="Answer", elem_id="replay-source")
        self.step = gr.Slider(1, 2, 1, step=1, label="Step", interactive=True, elem_id="replay-step")
        with gr.Row():
            self.play_button = gr.Button("Play", variant="primary", min_width=80, elem_id="replay-play")
            self.pause_button = gr.Button("Pause", min_width=80, elem_id="replay-pause")
        with gr.Row():
            self.speed = gr.Slider(
                0.05, 2, 0.4, step=0.05, label="Seconds a step", min_width=200, elem_id="replay-speed"
            )
            self.colour = gr.Radio(
                list(COLOURS), value="confidence", label="Colour by", min_width=300, elem_id="replay-colour"
            )
        self.line = make_html_block(name="replay-line")
        self.canvas = make_html_block(render_canvas(None, TokenDisplay(None), CanvasView()), "replay-canvas")
        self.legend = make_html_block(render_legend(CanvasView()))
        self.table = make_html_block(name="replay-table")
        self._connect_events(tab)

    def _connect_events(self, tab: Any) -> None:
        """Connect the controls with the methods below."""
        drawn = [self.line, self.canvas, self.legend, self.table]
        position = [self.session, self.source, self.step, self.colour]
        opened, chosen = [tab.select, self.source.change], [self.session, self.source, self.colour]
        gr.on(opened, self.show_last_step, chosen, [self.step, *drawn], **QUIET)
        # `input`, not `change`: playing moves the slider too, and draws by itself. A slider that is dragged makes
        # events faster than they are drawn, so all but the last are dropped.
        gr.on(
            [self.step.input, self.colour.change], self.show_step, position, drawn, trigger_mode="always_last", **QUIET
        )
        self.play_button.click(self.play, [*position, self.speed], [self.step, *drawn], **QUIET)
        self.pause_button.click(self.pause, self.session, queue=False, **QUIET)

    def find_run(self, session: VisitorSession, source: str) -> AnswerRun | None:
        """Return the recorded answer of a source, or None where there is none."""
        if source == SOURCES[0]:
            return session.run
        place = SOURCES.index(source) - 1 if source in SOURCES else 0
        return session.lanes[place] if place < len(session.lanes) else None

    def show_last_step(self, session: VisitorSession, source: str, colour: str) -> tuple[Any, ...]:
        """Draw the last step of an answer, and give the slider as many steps as it has."""
        self.pause(session)
        run = self.find_run(session, source)
        count = len(run.frames) if run is not None else 0
        # A slider needs two different ends; with fewer steps it is switched off.
        slider = gr.update(maximum=max(2, count), value=max(1, count), interactive=count > 1)
        return slider, *self.show_step(session, source, count, colour)

    def show_step(self, session: VisitorSession, source: str, step: float, colour: str) -> tuple[str, str, str, str]:
        """Draw a step, counted from 1: its summary, its canvas, the legend and its candidates."""
        run = self.find_run(session, source)
        view = CanvasView(colour, steps=run.frames[-1].nfe if run is not None and run.frames else None)
        if run is None or not run.frames:
            return (
                render_note("nothing is recorded yet: ask something first"),
                render_canvas(None, TokenDisplay(None), view),
                render_legend(view),
                "",
            )
        frame = run.frames[max(1, min(int(step or 1), len(run.frames))) - 1]
        canvas = render_canvas(frame, run.display, view, run.stops)
        line, candidates = render_step_line(frame, len(run.frames)), render_candidates(frame, run.display)
        return line, canvas, render_legend(view), candidates

    def play(
        self, session: VisitorSession, source: str, step: float, colour: str, speed: float
    ) -> Iterator[tuple[Any, ...]]:
        """Draw one step after another from a step on; from the first one if it is the last."""
        self.pause(session)
        run, playing = self.find_run(session, source), session.playing
        count = 0 if run is None else len(run.frames)
        first = 1 if int(step or 1) >= count else int(step or 1)
        for at in range(first, count + 1):
            yield at, *self.show_step(session, source, at, colour)
            time.sleep(max(0.05, min(2.0, speed or 0.4)))
            if session.playing != playing:  # paused, or played from another step
                return

    def pause(self, session: VisitorSession) -> None:
        """Stop playing."""
        session.playing += 1
