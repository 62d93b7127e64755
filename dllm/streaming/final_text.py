"""The final part of a text while tokens are still to come: the part that no further token can change.

Three things can change the end of a decoded text, and are held back until they cannot: bytes of an unfinished
character, spaces that a tokenizer cleans up, and what may turn out to be the beginning of a stop string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from dllm.engine.stop import AnswerEnd

BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
"""Name of a byte in a vocabulary with byte fallback; a run of them becomes text only as a whole."""
BROKEN = "\ufffd"
"""Replacement character, which decoders write for bytes that are not a whole character."""
CLEANED = 8
"""Characters at the end that the cleaning of spaces may still change; its longest pattern has four."""


class GrowingText:
    """One answer as far as it is final; `grow` adds further final tokens.

    Args:
        end: Where the answer ends, and how its tokens become text.

    Attributes:
        end: As above.
        before: Tokens that belong to the text and are not searched for an end: in a text with holes, those up to the
            last one given.
        tail: The other tokens, up to and including the first end.
        text: Text that was returned so far.
        ended: Whether an end token or a stop string has come.
    """

    def __init__(self, end: AnswerEnd) -> None:
        self.end = end
        self._is_transient = _make_transient_predicate(end.tokenizer)
        self.before: list[int] = []
        self.tail: list[int] = []
        self.text = ""
        self.ended = False

    def grow(self, before: Sequence[int], tail: Sequence[int]) -> tuple[str, list[int]]:
        """Add final tokens.

        Args:
            before: Tokens that are not searched for an end.
            tail: Tokens behind them.

        Returns:
            The text that is final now and was not before; and the tokens of `tail` without those behind an end.
        """
        self.before += before
        known = len(self.tail)
        for token in tail:
            if self.ended:
                break
            self.tail.append(token)
            self.ended = token in self.end.ids or self._has_stop_string()
        return self._take_new_text(), self.tail[known:]

    def _has_stop_string(self) -> bool:
        """Return whether the text of the tail contains a stop string."""
        if not self.end.strings:
            return False
        text = self.end.tokenizer.decode(self.tail, skip_special_tokens=True)
        return any(string in text for string in self.end.strings)

    def _take_new_text(self) -> str:
        """Return the text that is final and was not returned yet."""
        final = (self.end.text(self.tail, self.before) or "") if self.ended else self._stable_text()
        new = final[len(self.text) :]
        self.text += new
        return new

    def _stable_text(self) -> str:
        """Decode all tokens, without the end of the text that a further token may change."""
        tokenizer = self.end.tokenizer
        if tokenizer is None:
            return ""
        ids = [*self.before, *self.tail]
        while ids and self._is_transient(ids[-1]):
            ids.pop()
        text: str = tokenizer.decode(ids, skip_special_tokens=True).rstrip(BROKEN)
        if getattr(tokenizer, "clean_up_tokenization_spaces", False):
            text = text[:-CLEANED]
        return text[: len(text) - count_partial_stop(text, self.end.strings)]


def count_partial_stop(text: str, strings: Sequence[str]) -> int:
    """Count the characters at the end of a text that are the beginning of a stop string."""
    longest = max(map(len, strings), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-size:]) and len(string) > size for string in strings):
            return size
    return 0


def _make_transient_predicate(tokenizer: Any) -> Callable[[int], bool]:
    """Make the test of whether a token at the end of a text has no settled meaning yet.

    Such a token is a byte, which may become part of a character; or a special token, because decoding leaves it out
    and bytes on both sides of it then form one run.
    """
    if tokenizer is None:
        return lambda token: False
    special = set(tokenizer.all_special_ids)
    known: dict[int, bool] = {}

    def is_transient(token: int) -> bool:
        if token not in known:
            known[token] = token in special or bool(BYTE.fullmatch(tokenizer.convert_ids_to_tokens(token) or ""))
        return known[token]

    return is_transient
