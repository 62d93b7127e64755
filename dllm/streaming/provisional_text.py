"""The text behind what is final, as it stands: it may still change, and what is pending shows as a blank."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from dllm.streaming.final_text import GrowingText

BLANK = "░"
"""A pending token."""


def render_draft(growing: GrowingText, pending: Sequence[int | None]) -> str:
    """The text behind what was handed out of an answer: what is held back of its final tokens, and the tokens behind
    them, None where pending."""
    tokenizer = growing.stopper.tokenizer
    if tokenizer is None or growing.ended:
        return ""
    known = [*growing.before, *growing.tail]
    found = [tokenizer.decode(known, skip_special_tokens=True)[len(growing.text) :]]
    for blank, run in groupby(pending, key=lambda token: token is None):
        tokens = [token or 0 for token in run]
        found.append(BLANK * len(tokens) if blank else _decode_after(tokenizer, known[-1:], tokens))
        known = known if blank else tokens
    return "".join(found)


def _decode_after(tokenizer: Any, before: Sequence[int], tokens: Sequence[int]) -> str:
    """Tokens as text behind others, so that a tokenizer does not take their first blank for the beginning of a text."""
    start = tokenizer.decode(before, skip_special_tokens=True)
    return tokenizer.decode([*before, *tokens], skip_special_tokens=True)[len(start) :]
