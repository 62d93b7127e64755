"""Tokens as the pieces of text that a canvas shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

BROKEN = "\ufffd"


class TokenDisplay:
    """How tokens are shown; each is worked out once.

    tokenizer  None: tokens are shown by their numbers
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special = set() if tokenizer is None else set(tokenizer.all_special_ids)
        self.known: dict[int, str] = {}

    def piece(self, token: int) -> str:
        """One token by itself; half a character shows as its number in brackets."""
        if token not in self.known:
            text = str(token) if self.tokenizer is None else self.tokenizer.decode([token])
            self.known[token] = f"‹{token}›" if BROKEN in text or not text else text
        return self.known[token]

    def pieces(self, tokens: Sequence[int | None]) -> list[str | None]:
        """Tokens in a row, None where there is none; a character of several tokens is shown at its first one."""
        shown: list[str | None] = [None if token is None else self.piece(token) for token in tokens]
        for first, last in _find_adjacent_spans(tokens, self.broken):
            text = self.tokenizer.decode([token for token in tokens[first:last] if token is not None])
            if BROKEN not in text:
                shown[first:last] = [text, *[""] * (last - first - 1)]
        return shown

    def broken(self, token: int) -> bool:
        """Whether a token is a part of a character."""
        return self.tokenizer is not None and token not in self.special and self.piece(token) == f"‹{token}›"


def _find_adjacent_spans(tokens: Sequence[int | None], member: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Neighbours, first and one behind the last, of which each is a member."""
    found: list[tuple[int, int]] = []
    for column, token in enumerate(tokens):
        if token is None or not member(token):
            continue
        if found and found[-1][1] == column:
            found[-1] = (found[-1][0], column + 1)
        else:
            found.append((column, column + 1))
    return found
