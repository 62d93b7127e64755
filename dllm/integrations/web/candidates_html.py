"""A table in HTML of the likeliest tokens in one step, position by position."""

from __future__ import annotations

from dllm.integrations.web.canvas_html import render_piece
from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.frames import AnswerFrame, ColumnGuess
from dllm.integrations.web.token_text import TokenDisplay

MOST = 128
"""Positions that are listed."""


def render_candidates(frame: AnswerFrame | None, display: TokenDisplay) -> str:
    """Render the likeliest tokens of every position that a step predicted."""
    if frame is None:
        return ""
    if not frame.guesses:
        return '<p class="dllm-note">This step predicted nothing: it stored a finished block.</p>'
    rows = "".join(
        _render_position_row(frame, column, guess, display) for column, guess in sorted(frame.guesses.items())[:MOST]
    )
    unlisted = len(frame.guesses) - MOST
    more = f'<p class="dllm-note">and {unlisted} more positions</p>' if unlisted > 0 else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("position", "likeliest tokens"))
    return (
        '<div class="dllm-scroll" tabindex="0" role="region" aria-label="candidates of this step">'
        f'<table class="dllm-candidates"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{more}'
    )


def _render_position_row(frame: AnswerFrame, column: int, guess: ColumnGuess, display: TokenDisplay) -> str:
    """Render the table row of one position."""
    decided, revoked = column in frame.new, column in frame.revoked
    mark = "✓ decided" if decided else "↺ taken back" if revoked else ""
    kind = ' class="dllm-decided"' if decided else ""
    bar = _render_probability_bar(guess.confidence)
    return (
        f'<tr{kind}><th scope="row">{column} {bar}<span class="dllm-mark">{mark}</span></th>'
        f"<td>{''.join(_render_token_chip(*each, guess, display) for each in guess.top)}</td></tr>"
    )


def _render_probability_bar(probability: float) -> str:
    """Render a probability as a number and a bar."""
    width = max(0, min(100, round(100 * probability)))
    number = f'<span class="dllm-number">{probability:.3f}</span>'
    return f'{number}<span class="dllm-bar"><i style="width:{width}%"></i></span>'


def _format_probability(probability: float) -> str:
    """Format a probability as HTML; one that three digits would show as zero is given as a bound."""
    return f"{probability:.3f}" if probability >= 0.0005 else "&lt; .001"


def _render_token_chip(token: int, probability: float, guess: ColumnGuess, display: TokenDisplay) -> str:
    """Render one token with its probability; the candidate is highlighted."""
    kind = "dllm-chip dllm-chosen" if token == guess.token else "dllm-chip"
    text = render_piece(display.piece(token), display, token)
    shown = f"<b>{text}</b> {_format_probability(probability)}"
    return f'<span class="{kind}" title="token {escape_html(token)}">{shown}</span> '
