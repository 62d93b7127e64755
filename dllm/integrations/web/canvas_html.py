"""A frame as a canvas in HTML: one cell for each column, coloured by the confidence or the step of its decision."""

from __future__ import annotations

from dataclasses import dataclass

from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.frames import AnswerFrame
from dllm.integrations.web.token_text import TokenDisplay

COLOURS = ("confidence", "step", "none")
LEVELS = 10
"""Shades of a colour scale; `style.css` has a class for each."""
FAR = 64
"""Pending columns behind the window that are drawn; of the others only the number is shown."""


@dataclass(frozen=True)
class CanvasView:
    """Settings of how a canvas is drawn.

    Attributes:
        colour: One of `COLOURS`.
        drafts: Whether columns that were predicted and not decided show their candidate.
        steps: Forwards of the whole run, which end the colour scale of steps; None: those so far.
    """

    colour: str = "confidence"
    drafts: bool = True
    steps: int | None = None


def render_canvas(
    frame: AnswerFrame | None, display: TokenDisplay, view: CanvasView, stops: frozenset[int] = frozenset()
) -> str:
    """Render an answer as cells; columns behind its first end token are left out."""
    if frame is None:
        return '<p class="dllm-cells dllm-empty">…</p>'
    return f'<p class="dllm-cells">{"".join(_render_cells(frame, display, view, stops))}</p>'


def _render_cells(frame: AnswerFrame, display: TokenDisplay, view: CanvasView, stops: frozenset[int]) -> list[str]:
    """Render the columns up to the end, without those that are pending far behind the window."""
    columns = zip(frame.tokens, frame.pending, strict=True)
    pieces = display.pieces([None if pending else token for token, pending in columns])
    end = _find_first_end(frame, stops)
    last = max(frame.window[1], _find_last_decided(frame)) + FAR
    cells = [_render_cell(frame, column, pieces[column], display, view) for column in range(min(end, last))]
    rest = sum(frame.pending[last:end])
    return [*cells, f'<span class="dllm-rest">+{rest} pending</span>'] if rest > 0 else cells


def _find_first_end(frame: AnswerFrame, stops: frozenset[int]) -> int:
    """Return the column behind the first decided end token that nothing pending precedes."""
    for column, (token, pending) in enumerate(zip(frame.tokens, frame.pending, strict=True)):
        if pending or not frame.when[column]:
            break
        if token in stops:
            return column + 1
    return len(frame.tokens)


def _find_last_decided(frame: AnswerFrame) -> int:
    """Return the column behind the last decided one."""
    return max((column + 1 for column, when in enumerate(frame.when) if when), default=0)


def _render_cell(frame: AnswerFrame, column: int, piece: str | None, display: TokenDisplay, view: CanvasView) -> str:
    """Render one column."""
    # A row that ended closes its other columns without a decision: they are not pending, and hold no token.
    if piece is None or (not frame.when[column] and not frame.pending[column]):
        return _render_undecided_cell(frame, column, display, view)
    kinds = ["dllm-cell", _choose_colour_class(frame, column, view)]
    kinds += ["dllm-new"] if column in frame.new else []
    text = render_piece(piece, display, frame.tokens[column])
    break_after = "<br>" if piece.endswith("\n") else ""
    classes, title = " ".join(filter(None, kinds)), _describe_decided_column(frame, column)
    return f'<span class="{classes}" title="{title}">{text}</span>{break_after}'


def _render_undecided_cell(frame: AnswerFrame, column: int, display: TokenDisplay, view: CanvasView) -> str:
    """Render a pending column; one that was closed without a decision is not drawn."""
    if not frame.pending[column]:
        return ""
    guess = frame.guesses.get(column)
    kinds = ["dllm-cell", "dllm-pending"]
    kinds += ["dllm-window"] if frame.window[0] <= column < frame.window[1] else []
    kinds += ["dllm-revoked"] if column in frame.revoked else []
    if guess is None or not view.drafts:
        return f'<span class="{" ".join(kinds)}" title="position {column}: pending">·</span>'
    title = f"position {column}: pending, candidate at {guess.confidence:.3f}"
    text = render_piece(display.piece(guess.token), display, guess.token)
    return f'<span class="{" ".join(kinds)} dllm-draft" title="{title}">{text}</span>'


def render_piece(piece: str, display: TokenDisplay, token: int) -> str:
    """Render a piece of text with visible line ends; a special token gets its name without the brackets."""
    if token in display.special:
        return f'<span class="dllm-special">{escape_html(piece.strip("<|>") or piece)}</span>'
    return escape_html(piece).replace("\n", '<span class="dllm-line"></span>')


def _describe_decided_column(frame: AnswerFrame, column: int) -> str:
    """Return the tooltip of a decided column."""
    confidence = f", confidence {frame.confidences[column]:.3f}" if frame.confidences[column] else ""
    return f"position {column}: forward {frame.when[column]}{confidence}"


def _choose_colour_class(frame: AnswerFrame, column: int, view: CanvasView) -> str:
    """Return the class of a decided column's colour, "" for none."""
    if view.colour == "confidence":
        confidence = frame.confidences[column]
        return f"dllm-c{compute_colour_level(confidence, 0.0, 1.0)}" if confidence else ""
    if view.colour == "step":
        return f"dllm-c{compute_colour_level(frame.when[column], 1, max(2, view.steps or frame.nfe))}"
    return ""


def compute_colour_level(value: float, low: float, high: float) -> int:
    """Return the shade, from 0, of a value between two ends; values beyond an end have its shade."""
    return max(0, min(LEVELS - 1, int((value - low) / (high - low) * LEVELS)))


def render_legend(view: CanvasView) -> str:
    """Render the meaning of the colours and marks."""
    swatches = "".join(f'<span class="dllm-swatch dllm-c{i}"></span>' for i in range(LEVELS))
    ends = ("unsure, 0", "sure, 1") if view.colour == "confidence" else ("first forward", "last")
    scale = f"<span>{ends[0]} {swatches} {ends[1]}</span>" if view.colour != "none" else ""
    marks = (
        '<span><span class="dllm-cell dllm-new">new</span> decided in this step</span>'
        '<span><span class="dllm-cell dllm-pending dllm-window dllm-draft">draft</span> candidate, not decided</span>'
        '<span><span class="dllm-cell dllm-pending">·</span> pending</span>'
    )
    return f'<div class="dllm-legend" aria-label="legend">{scale}{marks}</div>'
