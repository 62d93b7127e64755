"""The first tab: a conversation whose last answer is shown as a canvas while it is denoised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from dllm.errors import DllmError, RequestError
from dllm.integrations.web.canvas_html import COLOURS, CanvasView, render_canvas, render_legend
from dllm.integrations.web.chat_html import VisitorSession, render_conversation
from dllm.integrations.web.controls import AnswerSettings, strip_option_dashes
from dllm.integrations.web.figures_html import render_failure, render_figures, render_run_status
from dllm.integrations.web.html_block import QUIET, make_html_block
from dllm.integrations.web.model_library import ModelLibrary
from dllm.integrations.web.panel import StrategyPanel
from dllm.integrations.web.runs import AnswerRun
from dllm.integrations.web.token_text import TokenDisplay

EXAMPLE = "Mia has 8 stamps. Lena has three times as many. How many stamps do they have in all?"
LONGEST_PROMPT = 20_000


class ConversationTab:
    """The tab; make it inside a `gr.Blocks`.

    Attributes:
        panel: The controls of the strategy.
    """

    def __init__(self, library: ModelLibrary, session: gr.State) -> None:
        self.library, self.session = library, session
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self.history = make_html_block(name="talk-history")
                self.canvas = make_html_block(render_canvas(None, TokenDisplay(None), CanvasView()), "talk-canvas")
                self.note = make_html_block(name="talk-note")
                self.prompt = gr.Textbox(
                    EXAMPLE, label="Prompt", lines=1, max_lines=6, max_length=LONGEST_PROMPT, elem_id="talk-prompt",
                    info="Enter sends, Shift+Enter begins a new line",
                )  # fmt: skip
                with gr.Row():
                    self.send = gr.Button("Send", variant="primary", min_width=80, elem_id="talk-send")
                    self.stop = gr.Button("Stop", min_width=80, elem_id="talk-stop")
                    self.clear = gr.Button("Clear", min_width=80, elem_id="talk-clear")
                self.figures = make_html_block(render_figures(None), "talk-figures")
                self.legend = make_html_block(render_legend(CanvasView()), "talk-legend")
                self.colour = gr.Radio(list(COLOURS), value="confidence", label="Colour by", elem_id="talk-colour")
                self.drafts = gr.Checkbox(True, label="Show candidates of undecided positions", elem_id="talk-drafts")
                self.pause = gr.Slider(
                    0, 1, 0.1, step=0.05, label="Slow motion, seconds a step", elem_id="talk-pause",
                    info="Of the view; decoding goes on at full speed. 0 shows the newest step.",
                )  # fmt: skip
            with gr.Column(scale=2, min_width=320):
                self.panel = StrategyPanel(library, AnswerSettings(library.labels[0]), "talk")
        self._connect_events()

    def _connect_events(self) -> None:
        """Connect the controls with the methods below."""
        screen = [self.history, self.canvas, self.note, self.figures, self.prompt]
        settings = [self.prompt, self.session, self.colour, self.drafts, self.pause, *self.panel.inputs]
        gr.on([self.prompt.submit, self.send.click], self.answer, settings, screen, **QUIET)
        # Not queued: behind the answers that are being watched, it would come too late to stop one of them.
        self.stop.click(lambda session: session.stop(), self.session, queue=False, **QUIET)
        self.clear.click(self.start_over, self.session, screen, **QUIET)
        gr.on(
            [self.colour.change, self.drafts.change], self.redraw, [self.session, self.colour, self.drafts],
            [self.canvas, self.legend], **QUIET,
        )  # fmt: skip

    def answer(
        self, text: str, session: VisitorSession, colour: str, drafts: bool, pause: float, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        """Answer a prompt, and draw the answer while it is decoded.

        Args:
            text: The prompt.
            session: The visitor's session.
            colour: One of `COLOURS`.
            drafts: Whether undecided positions show their candidate.
            pause: Seconds for which each step is shown; 0: always the newest step.
            *values: Values of `panel.inputs`.

        Yields:
            The conversation, the canvas, the state, the figures and the prompt's text box.
        """
        try:
            run = self._start_answer(text, session, values)
        except DllmError as error:
            yield gr.skip(), gr.skip(), render_failure(strip_option_dashes(error)), gr.skip(), gr.skip()
            return
        yield (
            render_conversation(session.messages),
            self._draw(run, 0, colour, drafts),
            render_run_status(run),
            render_figures(run),
            "",
        )
        try:
            for shown in run.watch(pause or 0):
                drawn = self._draw(run, shown, colour, drafts)
                yield gr.skip(), drawn, render_run_status(run, shown), render_figures(run, shown), gr.skip()
        finally:
            # Gradio closes this generator when the visitor leaves the page.
            run.stop()

    def _start_answer(self, text: str, session: VisitorSession, values: Any) -> AnswerRun:
        """Start an answer and make it the session's last one.

        Raises:
            ConfigError: The settings cannot work; the session is unchanged.
            RequestError: The prompt is empty.
        """
        if not (text or "").strip():
            raise RequestError("the prompt is empty: write something first")
        choice = self.panel.read_settings(values)
        messages = session.add_question(text.strip())
        run = self.library.start_answer(choice, messages)
        session.stop()
        session.messages, session.run = messages, run
        return run

    def _draw(self, run: AnswerRun, shown: int, colour: str, drafts: bool) -> str:
        """Render the canvas after so many frames."""
        if not shown:
            return render_canvas(None, TokenDisplay(None), CanvasView())
        view = CanvasView(colour, drafts, run.frames[-1].nfe if run.over else None)
        return render_canvas(run.frames[shown - 1], run.display, view, run.stops)

    def redraw(self, session: VisitorSession, colour: str, drafts: bool) -> tuple[Any, str]:
        """Draw the last answer in other colours."""
        run = session.run
        drawn = gr.skip() if run is None or not run.frames else self._draw(run, len(run.frames), colour, drafts)
        return drawn, render_legend(CanvasView(colour))

    def start_over(self, session: VisitorSession) -> tuple[Any, ...]:
        """Start a new conversation."""
        session.stop()
        session.messages, session.run = [], None
        return "", render_canvas(None, TokenDisplay(None), CanvasView()), "", render_figures(None), gr.skip()
