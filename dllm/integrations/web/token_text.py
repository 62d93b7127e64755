"""Tokens as the pieces of text that a canvas shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

BROKEN = "\ufffd"
"""Character that a tokenizer decodes a part of a character to."""


class TokenDisplay:
    """Pieces of text for tokens; each token is decoded once.

    Args:
        tokenizer: The tokenizer; None: tokens are shown by their numbers.

    Attributes:
        special: Ids of the special tokens.
        known: Pieces by token id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special: set[int] = set() if tokenizer is None else set(tokenizer.all_special_ids)
        self.known: dict[int, str] = {}

    def piece(self, token: int) -> str:
        """Return the piece of one token; a part of a character shows as its number in brackets."""
        if token not in self.known:
            text = str(token) if self.tokenizer is None else self.tokenizer.decode([token])
            self.known[token] = f"‹{token}›" if BROKEN in text or not text else text
        return self.known[token]

    def pieces(self, tokens: Sequence[int | None]) -> list[str | None]:
        """Return the pieces of tokens in a row.

        Args:
            tokens: The tokens, None where there is none.

        Returns:
            A piece for each token, None where there is none. A character of several tokens is shown at the first.
        """
        shown: list[str | None] = [None if token is None else self.piece(token) for token in tokens]
        for first, last in _find_adjacent_spans(tokens, self._is_partial_character):
            text = self.tokenizer.decode([token for token in tokens[first:last] if token is not None])
            if BROKEN not in text:
                shown[first:last] = [text, *[""] * (last - first - 1)]
        return shown

    def _is_partial_character(self, token: int) -> bool:
        """Return whether a token is a part of a character."""
        return self.tokenizer is not None and token not in self.special and self.piece(token) == f"‹{token}›"


def _find_adjacent_spans(tokens: Sequence[int | None], member: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Return the longest spans of tokens that are all members, as their first place and the place behind the last."""
    spans: list[tuple[int, int]] = []
    for column, token in enumerate(tokens):
        if token is None or not member(token):
            continue
        if spans and spans[-1][1] == column:
            spans[-1] = (spans[-1][0], column + 1)
        else:
            spans.append((column, column + 1))
    return spans
