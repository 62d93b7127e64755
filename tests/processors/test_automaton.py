"""The automaton accepts the texts that the regular expression matches, byte by byte and token by token."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import dllm
from dllm import ConfigError
from dllm.processors.automaton import (
    END,
    NEVER,
    NOTHING,
    Automaton,
    build_token_automaton,
    compile_automaton,
)
from dllm.processors.byte_automaton import compile_byte_automaton
from dllm.processors.spelling import spell_tokens
from tests.processors.patterns import PATTERNS
from tests.processors.words import WORDS, speaking
from tests.tiny import MASK, STOP, VOCABULARY

TEXTS = ["".join(text) for n in range(5) for text in product("abcé", repeat=n)]


def walk(automaton: Automaton, kinds: list[int]) -> int:
    state = automaton.begin
    for kind in kinds:
        state = int(automaton.table[kind, state])
    return state


@settings(max_examples=60)
@given(PATTERNS)
def test_bytes_accept_what_python_matches(pattern: str) -> None:
    table, begin, final = compile_byte_automaton(pattern)
    for text in TEXTS:
        state = begin
        for byte in text.encode():
            state = table[state, byte]
        accepted = state < len(final) and bool(final[state])
        assert accepted == (re.fullmatch(pattern, text) is not None), text


@settings(max_examples=60)
@given(
    PATTERNS,
    st.lists(st.sampled_from(["a", "b", "ab", "bc", "aab", "é", "cé", "\xc3", "\xa9"]), unique=True, min_size=1),
)
def test_tokens_accept_what_their_texts_match(pattern: str, words: list[str]) -> None:
    spelled = [w.encode("latin1") if w in "\xc3\xa9" else w.encode() for w in words]
    automaton = build_token_automaton(*compile_byte_automaton(pattern), [*spelled, None], mask_id=None)
    for tokens in (t for n in range(4) for t in product(range(len(words)), repeat=n)):
        try:
            matches = re.fullmatch(pattern, b"".join(spelled[i] for i in tokens).decode()) is not None
        except UnicodeDecodeError:
            matches = False
        kinds = automaton.kinds[list(tokens)].tolist()
        state = walk(automaton, kinds)
        assert (state < automaton.end and bool(automaton.final[state])) == matches, (tokens, pattern)
        assert (walk(automaton, [*kinds, END]) == automaton.end) == matches


def test_what_ends_a_text_and_what_is_never_written() -> None:
    automaton = compile_automaton("a+", speaking("bidirectional").tokenizer, VOCABULARY, MASK)
    assert automaton.kinds[[MASK, STOP]].tolist() == [NEVER, NOTHING]
    assert walk(automaton, [END]) > automaton.end
    a = int(automaton.kinds[WORDS.index("a")])
    assert walk(automaton, [a, END, NOTHING, a]) == automaton.end
    assert walk(automaton, [a, NOTHING]) > automaton.end
    assert walk(automaton, [a, END, NEVER]) > automaton.end
    assert compile_automaton("a+", speaking("bidirectional").tokenizer, VOCABULARY, MASK) is automaton


@pytest.mark.parametrize(
    ("pattern", "shortest"), [("(ab)*", 0), ("abc", 1), ("(abab)+", 2), ("x", None), ("[ab]{5}", 3)]
)
def test_the_shortest_text(pattern: str, shortest: int | None) -> None:
    assert compile_automaton(pattern, speaking("bidirectional").tokenizer, VOCABULARY, MASK).shortest == shortest


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("(a", "(a"), ("a(?=b)", "a(?=b)"), ("^a$", "leave ^ and $ out"), ("[^\\s\\S]", "no text"), ("a)(b", "a)(b")],
)
def test_what_cannot_be_compiled_is_said(pattern: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compile_byte_automaton(pattern)
    assert said in str(error.value)


def test_a_vast_automaton_is_refused() -> None:
    with pytest.raises(ConfigError, match="4096"):
        compile_automaton("[a]{5000}", speaking("bidirectional").tokenizer, VOCABULARY, MASK)


def test_spelling_agrees_with_the_embedded_tokenizer() -> None:
    model = dllm.load()
    spelled = spell_tokens(model.tokenizer, model.vocabulary)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        ids = torch.randint(model.vocabulary, (12,), generator=generator).tolist()
        text = model.tokenizer.decode(ids, skip_special_tokens=True)
        assert b"".join(spelled[i] or b"" for i in ids).decode(errors="replace") == text
    assert [i for i, word in enumerate(spelled) if word is None] == sorted(model.tokenizer.all_special_ids)


def test_spelling_knows_pieces_and_single_bytes() -> None:
    backend = Tokenizer(models.WordLevel({"▁the": 0, "re": 1, "<0xC3>": 2, "<0xA9>": 3, "<unk>": 4}, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    spelled = spell_tokens(tokenizer, 6)
    assert spelled == [b" the", b"re", b"\xc3", b"\xa9", None, None]
    assert b"".join(spelled[i] or b"" for i in (0, 1, 0, 2, 3)).decode() == tokenizer.decode([0, 1, 0, 2, 3])


def test_spelling_refuses_what_it_does_not_know() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match="WordPiece"):
        spell_tokens(PreTrainedTokenizerFast(tokenizer_object=backend), 1)
    with pytest.raises(ConfigError, match="needs a tokenizer"):
        spell_tokens(None, 1)
