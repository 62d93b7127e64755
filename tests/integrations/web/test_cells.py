"""Frames as HTML: nothing that a model or a person wrote becomes markup, and each column is drawn once."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from dllm.integrations.web.candidates_html import render_candidates
from dllm.integrations.web.canvas_html import CanvasView, compute_colour_level, render_canvas, render_legend
from dllm.integrations.web.chat_html import render_conversation
from dllm.integrations.web.controls import AnswerSettings
from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.figures_html import render_failure, render_figures, render_run_status, render_step_line
from dllm.integrations.web.frames import AnswerFrame, ColumnGuess
from dllm.integrations.web.race_result import render_race_result
from dllm.integrations.web.token_text import TokenDisplay
from tests.integrations.web.conftest import finished

HOSTILE = '<img src=x onerror="alert(1)">${alert(1)}{{value}}`\x00\x1b[31m'


class HostileTokenizer:
    """A tokenizer whose every token is an attack, except token 9, which is half a character."""

    all_special_ids = (0,)

    def decode(self, ids):
        return "é" if list(ids) == [9, 9] else "\ufffd" if 9 in ids else HOSTILE


def frame(**changed) -> AnswerFrame:
    """Return a frame of four columns, two of them decided, with some fields changed."""
    base = AnswerFrame(
        number=0, seconds=0.1, nfe=2, queries=4, tokens=[1, 2, 3, 4], pending=[False, False, True, True],
        when=[1, 2, 0, 0], confidences=[0.95, 0.05, 0.0, 0.0], new=frozenset([1]), revoked=frozenset([3]),
        window=(0, 4), guesses={1: ColumnGuess(2, 0.05, ((2, 0.05), (5, 0.04))), 2: ColumnGuess(7, 0.5, ((7, 0.5),))},
    )  # fmt: skip
    return base._replace(**changed)


class Tags(HTMLParser):
    """The tags of a piece of HTML; making it fails for unclosed tags and for event handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"unclosed {self.open}"

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_nothing_written_becomes_markup():
    display = TokenDisplay(HostileTokenizer())
    conversation = render_conversation(
        [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
    )
    pages = [render_canvas(frame(), display, CanvasView(c)) for c in ("confidence", "step", "none")]
    for page in [*pages, render_candidates(frame(), display), conversation, render_failure(HOSTILE)]:
        assert not {"img", "script"} & set(Tags(page).found)
        assert not set("{}$`\x00\x1b") & set(page)


def test_safe_text_keeps_its_meaning():
    assert escape_html("a<b> & 'c'") == "a&lt;b&gt; &amp; &#x27;c&#x27;"
    assert escape_html("a\r\nb\tc") == "a\nb\tc"


def test_a_character_of_two_tokens_is_drawn_once():
    display = TokenDisplay(HostileTokenizer())
    assert display.pieces([9, 9, None, 9]) == ["é", "", None, "‹9›"]


def test_cells_show_what_is_new_what_is_pending_and_the_confidence():
    drawn = render_canvas(frame(), TokenDisplay(None), CanvasView("confidence"))
    assert drawn.count("dllm-pending") == 2 and drawn.count("dllm-new") == 1 and drawn.count("dllm-draft") == 1
    assert "dllm-c9" in drawn and "dllm-c0" in drawn and "dllm-revoked" in drawn
    assert "candidate at 0.500" in drawn and "forward 2, confidence 0.050" in drawn
    assert "dllm-draft" not in render_canvas(frame(), TokenDisplay(None), CanvasView("confidence", drafts=False))
    assert "dllm-c" not in render_canvas(frame(), TokenDisplay(None), CanvasView("none")).replace("dllm-cell", "")


def test_what_lies_behind_the_end_is_not_drawn():
    ended = frame(tokens=[1, 0, 3, 4])
    assert render_canvas(ended, TokenDisplay(None), CanvasView(), frozenset([0])).count("dllm-cell ") == 2


def test_a_long_rest_is_shown_as_a_number():
    many = 1000
    long = frame(
        tokens=[1] * many, pending=[False] + [True] * (many - 1), when=[1] + [0] * (many - 1), confidences=[1.0] * many,
        window=(0, 8), guesses={},
    )  # fmt: skip
    drawn = render_canvas(long, TokenDisplay(None), CanvasView())
    assert len(drawn) < 20_000 and "+928 pending" in drawn


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0), (0.049, 0), (0.5, 5), (0.999, 9), (1.0, 9), (7.0, 9)])
def test_levels(value, expected):
    assert compute_colour_level(value, 0.0, 1.0) == expected


def test_a_real_run_is_drawn_whole(library):
    question = [{"role": "user", "content": "Compute 8 + 6."}]
    runs = [
        finished(library.start_answer(AnswerSettings("embedded", parts={"policy": p}), question))
        for p in (("factor", ()), ("top-k", ("1",)))
    ]
    for run in runs:
        for at, each in enumerate(run.frames, 1):
            Tags(render_canvas(each, run.display, CanvasView("step", steps=run.result.nfe), run.stops))
            Tags(
                render_candidates(each, run.display)
                + render_step_line(each, len(run.frames))
                + render_figures(run, at)
                + render_run_status(run, at)
            )
    assert "times as fast" in render_race_result(*runs) and "forwards for A" in render_race_result(*runs)
    Tags(render_legend(CanvasView("step")) + render_figures(None))
