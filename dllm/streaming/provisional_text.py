"""The text behind what is final, as it stands: it may still change, and pending tokens appear as blanks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from dllm.streaming.final_text import GrowingText

BLANK = "░"
"""Character that stands for a pending token."""


def render_draft(growing: GrowingText, pending: Sequence[int | None]) -> str:
    """Render the text of an answer behind its final part.

    Args:
        growing: The final part. The end of its text that is held back belongs to the draft.
        pending: Tokens behind the final ones; None for each that is pending.
    """
    tokenizer = growing.end.tokenizer
    if tokenizer is None or growing.ended:
        return ""
    known = [*growing.before, *growing.tail]
    parts = [tokenizer.decode(known, skip_special_tokens=True)[len(growing.text) :]]
    for blank, run in groupby(pending, key=lambda token: token is None):
        tokens = [token or 0 for token in run]
        parts.append(BLANK * len(tokens) if blank else _decode_after(tokenizer, known[-1:], tokens))
        known = known if blank else tokens
    return "".join(parts)


def _decode_after(tokenizer: Any, before: Sequence[int], tokens: Sequence[int]) -> str:
    """Decode tokens behind others: a tokenizer would drop the first space of tokens at the beginning of a text."""
    start: str = tokenizer.decode(before, skip_special_tokens=True)
    text: str = tokenizer.decode([*before, *tokens], skip_special_tokens=True)
    return text[len(start) :]
