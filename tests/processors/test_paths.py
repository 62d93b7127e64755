"""What may be written where, against every text written out."""

from __future__ import annotations

import re
from itertools import product

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dllm.processors.automaton import END, NOTHING, build_token_automaton
from dllm.processors.byte_automaton import compile_byte_automaton
from dllm.processors.paths import PENDING, AutomatonPaths, classify_tokens, compute_paths, select_compatible_slots
from tests.processors.patterns import PATTERNS

WORDS = ["a", "b", "c", "bc", None, None]
STOP, OTHER = 4, 5
"""Ids of the end token and of another special one."""


def complete(pattern: str, row: tuple[int, ...], text: int, stops: bool) -> bool:
    """Whether a row of tokens is a text of the pattern, ended by the end token or by the last column."""
    for n, token in enumerate(row):
        if token == STOP and stops and n >= text:
            row = row[:n]
            break
    if any(WORDS[token] is None for token in row):
        return False
    return re.fullmatch(pattern, "".join(WORDS[token] or "" for token in row)) is not None


@st.composite
def boards(draw: st.DrawFn) -> tuple[str, int, list[int], int, bool]:
    """A pattern, columns before the text, a row with some tokens decided, where its end may come, whether it may."""
    pattern, n = draw(PATTERNS), draw(st.integers(1, 4))
    row = draw(st.lists(st.sampled_from([-1, -1, -1, 0, 1, 2, 3, STOP, OTHER]), min_size=n, max_size=n))
    return pattern, draw(st.integers(0, 2)), row, draw(st.integers(0, n)), draw(st.booleans())


@st.composite
def open_boards(draw: st.DrawFn) -> tuple[str, int, list[int], int, bool]:
    """The same, with a text that can be completed and two pending columns or more."""
    pattern = draw(st.one_of(PATTERNS.map(lambda p: f"(?:{p})*"), PATTERNS.map(lambda p: f"{p}[abc]*")))
    n = draw(st.integers(2, 4))
    text, stops = draw(st.integers(0, n)), draw(st.booleans())
    whole = sorted(board(pattern, 0, [-1] * n, text, stops)[2])
    assume(whole)
    chosen = draw(st.sampled_from(whole))
    decided = draw(st.sets(st.integers(0, n - 1), max_size=n - 2))
    return pattern, draw(st.integers(0, 2)), [chosen[i] if i in decided else -1 for i in range(n)], text, stops


def board(
    pattern: str, before: int, row: list[int], text: int, stops: bool
) -> tuple[object, AutomatonPaths, set[tuple[int, ...]]]:
    """The automaton, the ways along the row, and all ways to complete it."""
    automaton = build_token_automaton(
        *compile_byte_automaton(pattern), [w.encode() if w else None for w in WORDS], mask_id=None
    )
    tokens = torch.tensor([[0] * before + row + [0]])
    ids = torch.tensor([[STOP if stops else -1]])
    kinds = torch.where(tokens < 0, PENDING, classify_tokens(automaton.kinds, tokens.clamp(min=0), ids))
    start, limit = torch.tensor([before]), torch.tensor([before + len(row)])
    ends = torch.tensor([before + text + 1 if stops else tokens.shape[1] + 1])
    choices = [range(len(WORDS)) if token < 0 else [token] for token in row]
    texts = {whole for whole in product(*choices) if complete(pattern, whole, text, stops)}
    return automaton, compute_paths(automaton, kinds, start, limit, ends), texts


@settings(max_examples=60)
@given(boards())
def test_allowed_is_what_some_completion_holds(case: tuple[str, int, list[int], int, bool]) -> None:
    automaton, paths, texts = board(*case)
    _, before, row, _, stops = case
    for i, token in enumerate(row):
        if token >= 0:
            continue
        allowed = paths.allowed(automaton, torch.tensor([0]), torch.tensor([before + i]))[0]
        kinds = classify_tokens(
            automaton.kinds, torch.arange(len(WORDS))[None], torch.tensor([[STOP if stops else -1]])
        )[0]
        got = {word for word in range(len(WORDS)) if allowed[kinds[word]]}
        assert got == {whole[i] for whole in texts}
    assert bool(paths.right[0, before, automaton.begin]) == bool(texts)


@settings(max_examples=60)
@given(open_boards(), st.data())
def test_what_is_kept_together(case: tuple[str, int, list[int], int, bool], data: st.DataObject) -> None:
    """In order of score, each token that still leaves a completion together with those kept before."""
    automaton, paths, texts = board(*case)
    _, before, row, _, stops = case
    open_ = [i for i, token in enumerate(row) if token < 0]
    wanted = {i: data.draw(st.sampled_from(sorted({whole[i] for whole in texts}))) for i in open_}
    order = data.draw(st.permutations(open_))
    kept: dict[int, int] = {}
    for i in order:
        if any(all(whole[j] == token for j, token in {**kept, i: wanted[i]}.items()) for whole in texts):
            kept[i] = wanted[i]
    assert order[0] in kept
    t = paths.kinds.shape[1]
    slots, tokens, score = torch.zeros(1, t, dtype=torch.bool), torch.zeros(1, t).long(), torch.zeros(1, t)
    for rank, i in enumerate(order):
        slots[0, before + i], tokens[0, before + i], score[0, before + i] = True, wanted[i], -rank
    kinds = classify_tokens(automaton.kinds, tokens, torch.tensor([[STOP if stops else -1]]))
    got = select_compatible_slots(automaton, paths, slots, kinds, score)[0]
    assert {i for i in open_ if got[before + i]} == set(kept)


@settings(max_examples=40)
@given(open_boards(), st.data())
def test_following_a_row_is_the_same_as_beginning_anew(
    case: tuple[str, int, list[int], int, bool], data: st.DataObject
) -> None:
    automaton, paths, texts = board(*case)
    pattern, before, row, text, stops = case
    open_ = [i for i, token in enumerate(row) if token < 0]
    whole = data.draw(st.sampled_from(sorted(texts)))
    for i in data.draw(st.permutations(open_)):
        row = [*row[:i], whole[i], *row[i + 1 :]]
        t = paths.kinds.shape[1]
        slots = torch.arange(t)[None] == before + i
        kinds = classify_tokens(automaton.kinds, torch.full((1, t), whole[i]), torch.tensor([[STOP if stops else -1]]))
        paths = paths.decide(slots, kinds).update_left(automaton, t).update_right(automaton, 0, before + i)
        _, anew, _ = board(pattern, before, row, text, stops)
        assert torch.equal(paths.left, anew.left)
        assert torch.equal(paths.right, anew.right)


def test_ended_tells_end_tokens_of_each_row() -> None:
    kinds = torch.tensor([3, 4, NOTHING])
    tokens = torch.tensor([[0, 2], [0, 2]])
    assert classify_tokens(kinds, tokens, torch.tensor([[2, -1], [-1, -1]])).tolist() == [[3, END], [3, NOTHING]]
