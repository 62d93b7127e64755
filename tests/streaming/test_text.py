"""The final part of a growing text is never taken back, and nothing is missing at the end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm.engine.stop import AnswerEnd
from dllm.streaming.final_text import GrowingText, count_partial_stop
from tests.streaming.tokenizers import STRINGS, TOKENIZERS
from tests.tiny import STOP, VOCABULARY

CHUNKS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=4), max_size=20)
TOKENS = {name: make() for name, make in TOKENIZERS.items()}


def answer_end(name: str, strings: tuple[str, ...]) -> AnswerEnd:
    return AnswerEnd(frozenset({STOP}), strings, TOKENS[name])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("stops", [False, True])
@settings(max_examples=150)
@given(chunks=CHUNKS)
def test_pieces_make_the_text(name: str, stops: bool, chunks: list[list[int]]) -> None:
    stop = answer_end(name, STRINGS[name] if stops else ())
    growing, ids = GrowingText(stop), []
    for chunk in chunks:
        before = growing.text
        new, own = growing.grow([], chunk)
        assert growing.text == before + new
        ids += own
    tail, stopped = stop.cut([token for chunk in chunks for token in chunk])
    text = stop.text(tail)
    assert ids == tail and growing.ended == stopped
    assert text is not None and text.startswith(growing.text), "final text never changes"
    assert not growing.ended or growing.text == text


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=80)
@given(before=st.lists(st.integers(0, VOCABULARY - 3), min_size=1, max_size=8), chunks=CHUNKS)
def test_what_was_given_belongs_to_a_text_with_holes(name: str, before: list[int], chunks: list[list[int]]) -> None:
    stop = answer_end(name, ())
    growing = GrowingText(stop)
    growing.grow(before, [])
    for chunk in chunks:
        growing.grow([], chunk)
    tail, _ = stop.cut([token for chunk in chunks for token in chunk])
    assert (stop.text(tail, before) or "").startswith(growing.text)


def test_a_character_comes_when_it_is_whole() -> None:
    tokens = TOKENS["byte-level"]
    euro = tokens.convert_tokens_to_ids(["â", "Ĥ", "¬"])
    growing = GrowingText(answer_end("byte-level", ()))
    assert [growing.grow([], [token])[0] for token in euro] == ["", "", "€"]


def test_a_run_of_bytes_comes_when_it_has_ended() -> None:
    tokens = TOKENS["byte-fallback"]
    growing = GrowingText(answer_end("byte-fallback", ()))
    pieces = ["<0xE2>", "<0x82>", "<0xAC>", "b"]
    assert [growing.grow([], [token])[0] for token in tokens.convert_tokens_to_ids(pieces)] == ["", "", "", "€b"]


def test_the_beginning_of_a_stop_string_waits() -> None:
    assert count_partial_stop("one two", ("two three",)) == 3
    assert count_partial_stop("aab", ("abc", "aabd")) == 3
    assert count_partial_stop("one", ("two",)) == 0 and count_partial_stop("one", ()) == 0
