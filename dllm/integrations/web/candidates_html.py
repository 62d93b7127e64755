"""What the model thought in one step, position by position, as a table in HTML."""

from __future__ import annotations

from dllm.integrations.web.canvas_html import render_piece
from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.frames import AnswerFrame, ColumnGuess
from dllm.integrations.web.token_text import TokenDisplay

MOST = 128
"""Positions that are listed."""


def render_candidates(frame: AnswerFrame | None, words: TokenDisplay) -> str:
    """The likeliest tokens of every position that the step looked at."""
    if frame is None:
        return ""
    if not frame.guesses:
        return '<p class="dllm-note">This step predicted nothing: it stored a finished block.</p>'
    rows = "".join(
        _render_position_row(frame, column, guess, words) for column, guess in sorted(frame.guesses.items())[:MOST]
    )
    left = len(frame.guesses) - MOST
    more = f'<p class="dllm-note">and {left} more positions</p>' if left > 0 else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("position", "likeliest tokens"))
    return (
        '<div class="dllm-scroll" tabindex="0" role="region" aria-label="candidates of this step">'
        f'<table class="dllm-candidates"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{more}'
    )


def _render_position_row(frame: AnswerFrame, column: int, guess: ColumnGuess, words: TokenDisplay) -> str:
    """One position."""
    decided, revoked = column in frame.new, column in frame.revoked
    mark = "✓ decided" if decided else "↺ taken back" if revoked else ""
    kind = ' class="dllm-decided"' if decided else ""
    return (
        f'<tr{kind}><th scope="row">{column} {_render_probability_bar(guess.confidence)}<span class="dllm-mark">{mark}</span></th>'
        f"<td>{''.join(_render_token_chip(*each, guess, words) for each in guess.top)}</td></tr>"
    )


def _render_probability_bar(share: float) -> str:
    """A probability as a number and a bar."""
    width = max(0, min(100, round(100 * share)))
    return f'<span class="dllm-number">{share:.3f}</span><span class="dllm-bar"><i style="width:{width}%"></i></span>'


def _format_probability(share: float) -> str:
    """A probability that may be tiny."""
    return f"{share:.3f}" if share >= 0.0005 else "&lt; .001"


def _render_token_chip(token: int, share: float, guess: ColumnGuess, words: TokenDisplay) -> str:
    """One token with its probability; the candidate stands out."""
    kind = "dllm-chip dllm-chosen" if token == guess.token else "dllm-chip"
    text = render_piece(words.piece(token), words, token)
    return f'<span class="{kind}" title="token {escape_html(token)}"><b>{text}</b> {_format_probability(share)}</span> '
