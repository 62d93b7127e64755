"""How much of a text is final while tokens are still to come: what no further token can change.

Three things can change the end of a decoded text, and are held back until they cannot: bytes of an unfinished
character, spaces that a tokenizer cleans up, and what may turn out to be the beginning of a stop string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from dllm.engine.stop import Stopper

BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
"""How a vocabulary with byte fallback writes a byte; a run of them becomes text only as a whole."""
BROKEN = "\ufffd"
CLEANED = 8
"""Characters at the end that cleaning up spaces may still change; its longest pattern has four."""


class GrowingText:
    """One answer as far as it is final. `grow` with further final tokens says what is new.

    stopper  when the answer is finished, and how its tokens become text
    place    the request, as the stopper counts them

    before   tokens that belong to the text and are not searched for an end: with holes, up to the last one given
    tail     the other tokens, up to and with the first end
    text     what was handed out of their text
    ended    an end token or stop string was found
    """

    def __init__(self, stopper: Stopper, place: int) -> None:
        self.stopper = stopper
        self.stops = set(stopper.ids[place].tolist())
        self.passing = _make_transient_predicate(stopper.tokenizer)
        self.before: list[int] = []
        self.tail: list[int] = []
        self.text = ""
        self.ended = False

    def grow(self, before: Sequence[int], tail: Sequence[int]) -> tuple[str, list[int]]:
        """The text that is final now and was not, and the tokens of the tail that count: none behind an end."""
        self.before += before
        known = len(self.tail)
        for token in tail:
            if self.ended:
                break
            self.tail.append(token)
            self.ended = token in self.stops or self.spoken()
        return self.hand_out(), self.tail[known:]

    def spoken(self) -> bool:
        """Whether the tail says a stop string."""
        if not self.stopper.strings:
            return False
        text = self.stopper.tokenizer.decode(self.tail, skip_special_tokens=True)
        return any(string in text for string in self.stopper.strings)

    def hand_out(self) -> str:
        """The text that is final and was not handed out yet."""
        final = (self.stopper.text(self.tail, self.before) or "") if self.ended else self.stable()
        new = final[len(self.text) :]
        self.text += new
        return new

    def stable(self) -> str:
        """The text without what a further token may change."""
        if self.stopper.tokenizer is None:
            return ""
        ids = [*self.before, *self.tail]
        while ids and self.passing(ids[-1]):
            ids.pop()
        text: str = self.stopper.tokenizer.decode(ids, skip_special_tokens=True).rstrip(BROKEN)
        if getattr(self.stopper.tokenizer, "clean_up_tokenization_spaces", False):
            text = text[:-CLEANED]
        return text[: len(text) - count_partial_stop(text, self.stopper.strings)]


def count_partial_stop(text: str, strings: Sequence[str]) -> int:
    """Characters at the end of a text that are the beginning of a stop string."""
    longest = max(map(len, strings), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(string.startswith(text[-size:]) and len(string) > size for string in strings):
            return size
    return 0


def _make_transient_predicate(tokenizer: Any) -> Callable[[int], bool]:
    """Whether a token at the end of a text has no settled meaning: a byte, or a special token, which may stand between
    bytes without parting them."""
    if tokenizer is None:
        return lambda token: False
    special = set(tokenizer.all_special_ids)
    known: dict[int, bool] = {}

    def passing(token: int) -> bool:
        if token not in known:
            known[token] = token in special or bool(BYTE.fullmatch(tokenizer.convert_ids_to_tokens(token) or ""))
        return known[token]

    return passing
