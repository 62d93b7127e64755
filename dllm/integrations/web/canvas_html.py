"""A frame as a canvas in HTML: one cell a column, coloured by how sure the model was or by when it decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.frames import AnswerFrame
from dllm.integrations.web.token_text import TokenDisplay

COLOURS = ("confidence", "step", "none")
LEVELS = 10
"""Shades of a colour scale; `style.css` has as many."""
FAR = 64
"""Pending columns behind the window that are drawn; the rest is told as a number."""


@dataclass(frozen=True)
class CanvasView:
    """How a canvas is drawn.

    colour  one of `COLOURS`
    drafts  show the model's candidate in columns that it looked at and did not decide
    steps   forwards of the whole run, for the scale of steps; None: as many as there were so far
    """

    colour: str = "confidence"
    drafts: bool = True
    steps: int | None = None


def render_canvas(
    frame: AnswerFrame | None, words: TokenDisplay, view: CanvasView, stops: frozenset[int] = frozenset()
) -> str:
    """The cells of an answer; what lies behind its first end token is left out."""
    if frame is None:
        return '<p class="dllm-cells dllm-empty">…</p>'
    cells = [*map(str, _render_cells(frame, words, view, stops))]
    return f'<p class="dllm-cells">{"".join(cells)}</p>'


def _render_cells(frame: AnswerFrame, words: TokenDisplay, view: CanvasView, stops: frozenset[int]) -> list[str]:
    """The cells that are worth drawing."""
    held = zip(frame.tokens, frame.pending, strict=True)
    pieces = words.pieces([None if pending else token for token, pending in held])
    end = _find_first_end(frame, stops)
    last = max(frame.window[1], _find_last_decided(frame)) + FAR
    cells = [_render_cell(frame, column, pieces[column], words, view) for column in range(min(end, last))]
    rest = sum(frame.pending[last:end])
    return [*cells, f'<span class="dllm-rest">+{rest} pending</span>'] if rest > 0 else cells


def _find_first_end(frame: AnswerFrame, stops: frozenset[int]) -> int:
    """One behind the first decided end token that nothing pending precedes."""
    for column, (token, pending) in enumerate(zip(frame.tokens, frame.pending, strict=True)):
        if pending or not frame.when[column]:
            break
        if token in stops:
            return column + 1
    return len(frame.tokens)


def _find_last_decided(frame: AnswerFrame) -> int:
    return max((column + 1 for column, when in enumerate(frame.when) if when), default=0)


def _render_cell(frame: AnswerFrame, column: int, piece: str | None, words: TokenDisplay, view: CanvasView) -> str:
    """One column."""
    if piece is None or (not frame.when[column] and not frame.pending[column]):
        return _render_undecided_cell(frame, column, words, view)
    kinds = ["dllm-cell", _choose_colour_class(frame, column, view)]
    kinds += ["dllm-new"] if column in frame.new else []
    text = render_piece(piece, words, frame.tokens[column])
    break_after = "<br>" if piece.endswith("\n") else ""
    return f'<span class="{" ".join(filter(None, kinds))}" title="{_describe_decided_column(frame, column)}">{text}</span>{break_after}'


def _render_undecided_cell(frame: AnswerFrame, column: int, words: TokenDisplay, view: CanvasView) -> str:
    """A column that holds nothing yet, or nothing any more."""
    if not frame.pending[column]:
        return ""
    guess = frame.guesses.get(column)
    kinds = ["dllm-cell", "dllm-pending"]
    kinds += ["dllm-window"] if frame.window[0] <= column < frame.window[1] else []
    kinds += ["dllm-revoked"] if column in frame.revoked else []
    if guess is None or not view.drafts:
        return f'<span class="{" ".join(kinds)}" title="position {column}: pending">·</span>'
    said = f"position {column}: pending, candidate at {guess.confidence:.3f}"
    text = render_piece(words.piece(guess.token), words, guess.token)
    return f'<span class="{" ".join(kinds)} dllm-draft" title="{said}">{text}</span>'


def render_piece(piece: str, words: TokenDisplay, token: int) -> str:
    """A piece of text in which blanks at the end, line ends and special tokens can be seen."""
    if token in words.special:
        return f'<span class="dllm-special">{escape_html(piece.strip("<|>") or piece)}</span>'
    return escape_html(piece).replace("\n", '<span class="dllm-line"></span>')


def _describe_decided_column(frame: AnswerFrame, column: int) -> str:
    """What is known of a decided column, for a pointer that rests on it."""
    sure = f", confidence {frame.sure[column]:.3f}" if frame.sure[column] else ""
    return f"position {column}: forward {frame.when[column]}{sure}"


def _choose_colour_class(frame: AnswerFrame, column: int, view: CanvasView) -> str:
    """The class of a decided column's colour."""
    if view.colour == "confidence":
        return f"dllm-c{compute_colour_level(frame.sure[column], 0.0, 1.0)}" if frame.sure[column] else ""
    if view.colour == "step":
        return f"dllm-c{compute_colour_level(frame.when[column], 1, max(2, view.steps or frame.nfe))}"
    return ""


def compute_colour_level(value: float, low: float, high: float) -> int:
    """Which of the shades a value between two ends has."""
    return max(0, min(LEVELS - 1, int((value - low) / (high - low) * LEVELS)))


def render_legend(view: CanvasView) -> str:
    """What the colours and the marks mean."""
    swatches = "".join(f'<span class="dllm-swatch dllm-c{i}"></span>' for i in range(LEVELS))
    ends: Sequence[str] = ("unsure, 0", "sure, 1") if view.colour == "confidence" else ("first forward", "last")
    scale = f"<span>{ends[0]} {swatches} {ends[1]}</span>" if view.colour != "none" else ""
    marks = (
        '<span><span class="dllm-cell dllm-new">new</span> decided in this step</span>'
        '<span><span class="dllm-cell dllm-pending dllm-window dllm-draft">draft</span> candidate, not decided</span>'
        '<span><span class="dllm-cell dllm-pending">·</span> pending</span>'
    )
    return f'<div class="dllm-legend" aria-label="legend">{scale}{marks}</div>'
