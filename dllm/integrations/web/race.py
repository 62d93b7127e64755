"""The third tab: two ways to answer the same prompt, side by side on one clock.

The lanes are decoded one after the other, so that neither slows the other down; then both are played together with the
times that were measured.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from dllm.errors import ConfigError, DllmError, RequestError
from dllm.integrations.web.canvas_html import COLOURS, CanvasView, render_canvas, render_legend
from dllm.integrations.web.chat_html import VisitorSession
from dllm.integrations.web.controls import AS_RECIPE, AnswerSettings, strip_option_dashes
from dllm.integrations.web.conversation import EXAMPLE, LONGEST_PROMPT
from dllm.integrations.web.figures_html import (
    format_seconds,
    render_failure,
    render_figures,
    render_note,
    render_run_status,
)
from dllm.integrations.web.html_block import QUIET, make_html_block
from dllm.integrations.web.model_library import ModelLibrary
from dllm.integrations.web.panel import StrategyPanel
from dllm.integrations.web.race_result import render_race_result
from dllm.integrations.web.runs import AnswerRun, RunStatus
from dllm.integrations.web.token_text import TokenDisplay

LANES = ("A", "B")
RATE = 12
"""Frames drawn a second."""
SHOWN = 6.0
"""Seconds to which a shorter race is stretched."""
PACES = ("stretched to 6 seconds", "as measured")


class RaceTab:
    """The tab; make it inside a `gr.Blocks`."""

    def __init__(self, library: ModelLibrary, session: gr.State) -> None:
        self.library, self.session = library, session
        self.prompt = gr.Textbox(
            EXAMPLE, label="Prompt", lines=1, max_lines=6, max_length=LONGEST_PROMPT, elem_id="race-prompt"
        )
        with gr.Row():
            self.length = gr.Textbox("64", max_lines=1, label="Length, tokens", min_width=110, elem_id="race-length")
            self.seed = gr.Textbox("0", max_lines=1, label="Seed", min_width=110, elem_id="race-seed")
            self.pace = gr.Dropdown(list(PACES), value=PACES[0], label="Clock", min_width=160, elem_id="race-pace")
            self.colour = gr.Radio(list(COLOURS), value="step", label="Colour by", min_width=300, elem_id="race-colour")
        with gr.Row():
            self.go = gr.Button("Race", variant="primary", min_width=80, elem_id="race-go")
            self.stop = gr.Button("Stop", min_width=80, elem_id="race-stop")
        self.clock = make_html_block(name="race-clock")
        self.legend = make_html_block(render_legend(CanvasView("step")))
        self.panels: list[StrategyPanel] = []
        self.canvases: list[Any] = []
        self.figures: list[Any] = []
        with gr.Row():
            for name in LANES:
                self._add_lane(name)
        with gr.Row():
            for name, start in zip(LANES, _choose_default_lanes(library), strict=True):
                with gr.Column(min_width=320), gr.Accordion(f"Strategy of lane {name}", open=True):
                    self.panels.append(StrategyPanel(self.library, start, f"race-{name}", alone=False))
        self._connect_events()

    def _add_lane(self, name: str) -> None:
        """Add the canvas and the figures of a lane."""
        with gr.Column(min_width=320):
            make_html_block(f'<h2 class="dllm-lane">Lane {name}</h2>')
            self.canvases.append(
                make_html_block(render_canvas(None, TokenDisplay(None), CanvasView()), f"race-canvas-{name}")
            )
            self.figures.append(make_html_block(render_figures(None), f"race-figures-{name}"))

    def _connect_events(self) -> None:
        """Connect the controls with the methods below."""
        drawn = [self.clock, *self.canvases, *self.figures]
        settings = [component for panel in self.panels for component in panel.inputs]
        values = [self.prompt, self.length, self.seed, self.pace, self.colour, self.session, *settings]
        gr.on([self.go.click, self.prompt.submit], self.race, values, drawn, **QUIET)
        # Not queued: behind the answers that are being watched, it would come too late to stop one of them.
        self.stop.click(lambda session: session.stop(), self.session, queue=False, **QUIET)
        self.colour.change(self.redraw, [self.session, self.colour], [*self.canvases, self.legend], **QUIET)

    def race(
        self, text: str, length: str, seed: str, pace: str, colour: str, session: VisitorSession, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Decode both lanes, then play them.

        Args:
            text: The prompt.
            length: New tokens, as text.
            seed: The seed, as text.
            pace: One of `PACES`.
            colour: One of `COLOURS`.
            session: The visitor's session.
            *values: Values of the `inputs` of both panels.

        Yields:
            The clock, both canvases and both lists of figures.
        """
        try:
            runs = self._start_lanes(text, length, seed, session, values)
        except DllmError as error:
            yield render_failure(strip_option_dashes(error)), *[gr.skip()] * 4
            return
        try:
            while not all(run.over for run in runs):
                yield render_note(_format_lane_progress(runs)), *self._draw(runs, [0, 0], colour)
                time.sleep(2 / RATE)
            if any(run.state is not RunStatus.DONE for run in runs):
                problems = [render_run_status(run) for run in runs if run.state is not RunStatus.DONE]
                yield "".join(problems), *self._draw(runs, [len(run.frames) for run in runs], colour)
                return
            yield from self._play(runs, pace, colour)
        finally:
            # Gradio closes this generator when the visitor leaves the page.
            for run in runs:
                run.stop()

    def _start_lanes(
        self, text: str, length: str, seed: str, session: VisitorSession, values: Sequence[Any]
    ) -> list[AnswerRun]:
        """Start both lanes and make them the session's last race.

        Raises:
            ConfigError: The settings of a lane cannot work; the message names the lane.
            RequestError: The prompt is empty.
        """
        if not (text or "").strip():
            raise RequestError("the prompt is empty: write something first")
        shared = {"max_new_tokens": length, "seed": seed}
        each = len(self.panels[0].inputs)
        spans = [values[:each], values[each:]]
        choices = [panel.read_settings(span, **shared) for panel, span in zip(self.panels, spans, strict=True)]
        for name, choice in zip(LANES, choices, strict=True):
            try:
                self.library.describe_plan(choice)
            except DllmError as error:
                raise ConfigError(f"lane {name}: {error}") from None
        session.stop()
        messages = [{"role": "user", "content": text.strip()}]
        session.lanes = [self.library.start_answer(choice, messages) for choice in choices]
        return session.lanes

    def _play(self, runs: Sequence[AnswerRun], pace: str, colour: str) -> Iterator[tuple[Any, ...]]:
        """Draw both lanes at the same moments of one clock, and then the result."""
        times = [[frame.seconds for frame in run.frames] for run in runs]
        end = max(each[-1] for each in times)
        slower = max(1.0, SHOWN / end) if pace == PACES[0] and end else 1.0
        start = time.monotonic()
        while (now := (time.monotonic() - start) / slower) < end and not any(run.stop_requested for run in runs):
            shown = [bisect_right(each, now) for each in times]
            clock = f"{format_seconds(now)} of {format_seconds(end)}" + (
                f", shown {slower:.0f} times slower" if slower > 1 else ""
            )
            yield render_note(clock), *self._draw(runs, shown, colour)
            time.sleep(1 / RATE)
        yield render_race_result(runs[0], runs[1]), *self._draw(runs, [len(run.frames) for run in runs], colour)

    def _draw(self, runs: Sequence[AnswerRun], shown: Sequence[int], colour: str) -> list[str]:
        """Render both canvases and both lists of figures after so many frames of each."""
        canvases, lists = [], []
        for run, count in zip(runs, shown, strict=True):
            view = CanvasView(colour, steps=run.frames[-1].nfe if run.over and run.frames else None)
            canvases.append(render_canvas(run.frames[count - 1] if count else None, run.display, view, run.stops))
            lists.append(render_figures(run, count))
        return [*canvases, *lists]

    def redraw(self, session: VisitorSession, colour: str) -> tuple[Any, ...]:
        """Draw the last race in other colours."""
        if not session.lanes:
            return gr.skip(), gr.skip(), render_legend(CanvasView(colour))
        shown = [len(run.frames) for run in session.lanes]
        return *self._draw(session.lanes, shown, colour)[:2], render_legend(CanvasView(colour))


def _choose_default_lanes(library: ModelLibrary) -> tuple[AnswerSettings, AnswerSettings]:
    """Return the settings at first: the model's own recipe against one token at a time.

    If there is a causal model, it is the second lane.
    """
    diffusion = [label for label in library.labels if not library.is_causal(label)] or library.labels
    causal = [label for label in library.labels if library.is_causal(label)]
    if causal:
        return AnswerSettings(diffusion[0]), AnswerSettings(causal[0])
    one = ("top-k", ("1", "", "", "left-to-right"))
    return AnswerSettings(diffusion[0]), AnswerSettings(diffusion[0], parts={"policy": one, "cache": (AS_RECIPE, ())})


def _format_lane_progress(runs: Sequence[AnswerRun]) -> str:
    """Return how many tokens each lane has, while the lanes are decoded."""
    states = []
    for name, run in zip(LANES, runs, strict=True):
        done = run.frames[-1].decided if run.frames else 0
        states.append(f"lane {name}: {run.state.value}" + (f", {done} tokens" if done else ""))
    return "each lane decodes alone, then both are played. " + "; ".join(states)
