"""A regular expression over tokens: which tokens lead from one state of its automaton to another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dllm.errors import ConfigError
from dllm.processors.spelling import spell_tokens

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Automaton:
    """States 0 to n-1 are those of the text, state n means that it has ended, n+1 that it cannot be completed.

    begin    the state before the first token
    final    (n,) bool        states in which the text may end
    kinds    (v,) int64       each token's kind: tokens of one kind do the same in every state
    table    (c, n+2) int32   the state behind each state and kind. Kind 0 ends the text, kind 1 is never written, and
                              kind 2 adds nothing to a text, so that it comes only behind its end
    steps    (n+1, n+1)       float32, 1 where some token leads from a state to another
    edges    (3, e) int64     kind, state before and state behind, sorted by kind, where the last is not n+1
    """

    begin: int
    final: Tensor
    kinds: Tensor
    table: Tensor
    steps: Tensor
    edges: Tensor

    @property
    def end(self) -> int:
        return len(self.final)

    @property
    def shortest(self) -> int | None:
        """Fewest tokens of a text; None where there is none at all."""
        reached = torch.zeros(self.end + 1)
        reached[self.begin] = 1
        for count in range(self.end + 1):
            if bool(reached[:-1][self.final].any()):
                return count
            reached = ((reached @ self.steps) > 0).float()
        return None


END, NEVER, NOTHING = range(3)
"""The first kinds of tokens."""
LAST = "\U0010ffff"
"""A character that no text holds."""
MOST = 4096
"""Most states: the steps between them are a dense matrix."""
MISSING = 'constraints need the package outlines-core: pip install "dllm[constrain]"'


@functools.lru_cache(maxsize=16)
def compile_automaton(pattern: str, tokenizer: Any, vocabulary: int, mask_id: int | None) -> Automaton:
    """The automaton of a pattern over a tokenizer's tokens, made once."""
    return build_token_automaton(*compile_byte_automaton(pattern), spell_tokens(tokenizer, vocabulary), mask_id)


@functools.lru_cache(maxsize=16)
def compile_byte_automaton(pattern: str) -> tuple[Array, int, Array]:
    """The automaton of a pattern over bytes: where each state (s,) leads by each byte (s + 1, 256), s meaning nowhere;
    the first state; and in which the text may end (s,).

    Raises ConfigError for what the library cannot compile, or where no text at all matches.

    Up to version 0.2.14 the library forgets the ways on from a state in which the text may end, unless they lead to
    another such state: `(ab)*` then matches nothing but the empty text. So the pattern is compiled with one more
    character behind it, after which nothing comes: U+10FFFF, which is no character and which no text may hold.
    """
    _build_outlines_index(pattern)
    index = _build_outlines_index(f"(?:{pattern}){LAST}")
    edges, stops = index.get_transitions(), index.get_final_states()
    states = sorted({index.get_initial_state(), *edges} - stops)
    place = {state: i for i, state in enumerate(states)}
    table = np.full((len(states) + 1, 256), len(states), dtype=np.int64)
    final = np.zeros(len(states), dtype=bool)
    for state in states:
        final[place[state]] = (
            functools.reduce(lambda at, byte: edges.get(at, {}).get(byte), LAST.encode(), state) in stops
        )
        for byte, target in edges[state].items():
            if target in place:
                table[place[state], byte] = place[target]
    return table, place[index.get_initial_state()], final


def _build_outlines_index(pattern: str) -> Any:
    """The library's index of a pattern over bytes. Raises ConfigError."""
    try:
        from outlines_core import Index, Vocabulary
    except ImportError:
        raise ConfigError(MISSING) from None
    try:
        return Index(pattern, Vocabulary(256, {bytes([i]): [i] for i in range(256)}))
    except ValueError as error:
        reason = str(error).split("\n")[0]
        if "start state" in reason:
            reason = "a pattern matches the whole text anyway: leave ^ and $ out"
        elif "incompatible" in reason:
            reason = "no text matches it"
        raise ConfigError(f"regular expression {pattern!r}: {reason}") from None


def build_token_automaton(
    table: Array, begin: int, final: Array, spelled: Sequence[bytes | None], mask_id: int | None
) -> Automaton:
    """The automaton over tokens from the one over bytes, with the states that a whole text can pass through."""
    writes = [i for i, word in enumerate(spelled) if word and i != mask_id]
    leads, which = _word_transitions(table, [spelled[i] or b"" for i in writes])
    leads = leads[:, :-1]
    useful = _find_useful_states(leads, begin, final)
    useful[begin] = True
    n = int(useful.sum())
    if n > MOST:
        raise ConfigError(
            f"the constraint's automaton has {n} states, and more than {MOST} are too slow: shorten what it counts "
            "({3,30}), or name fewer characters ([a-z] instead of \\w)"
        )
    renamed = np.where(useful, np.cumsum(useful) - 1, n + 1)
    leads = np.concatenate([renamed, [n + 1]])[leads[:, useful]]
    leads, again = _unique_rows(leads)

    kinds = np.full(len(spelled), NOTHING)
    kinds[writes] = again[which] + NOTHING + 1
    behind = np.full((len(leads) + 3, n + 2), n + 1)
    behind[:, n] = n
    behind[3:, :n] = leads
    behind[END, :n][final[useful]] = n
    behind[NEVER] = n + 1
    if mask_id is not None and mask_id < len(kinds):
        kinds[mask_id] = NEVER
    kind, state = np.nonzero(behind[:, : n + 1] <= n)
    steps = torch.zeros(n + 1, n + 1)
    steps[state, behind[kind, state]] = 1
    return Automaton(
        begin=int(renamed[begin]),
        final=torch.from_numpy(final[useful]),
        kinds=torch.from_numpy(kinds),
        table=torch.from_numpy(behind).int(),
        steps=steps,
        edges=torch.from_numpy(np.stack([kind, state, behind[kind, state]])),
    )


def _word_transitions(table: Array, words: Sequence[bytes]) -> tuple[Array, Array]:
    """What each word does to every state, as rows of a table (m, s + 1) and each word's row in it (w,).

    All words are read at once, a byte at a time; those that have done the same so far share a row.
    """
    which = np.zeros(len(words), dtype=np.int64)
    maps = np.arange(len(table))[None]
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    for place in range(lengths.max(initial=0)):
        open_ = lengths > place
        letter = np.array([words[i][place] for i in np.flatnonzero(open_).tolist()], dtype=np.int64)
        pairs, pair = np.unique(which[open_] * 256 + letter, return_inverse=True)
        after = table[maps[pairs // 256], (pairs % 256)[:, None]]
        which[open_] = len(maps) + pair
        maps, merged = _unique_rows(np.concatenate([maps, after]))
        which = merged[which]
    used, which = np.unique(which, return_inverse=True)
    return maps[used], which


def _unique_rows(rows: Array) -> tuple[Array, Array]:
    """Rows without repetition, and where each row is among them."""
    rows = np.ascontiguousarray(rows)
    if not len(rows):
        return rows, np.zeros(0, dtype=np.int64)
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, place = np.unique(whole, return_index=True, return_inverse=True)
    return rows[first], place


def _find_useful_states(leads: Array, begin: int, final: Array) -> Array:
    """States (s,) that lie on a way from the first state to one in which the text may end; `leads` (m, s)."""
    size = len(final)
    state = np.broadcast_to(np.arange(size), leads.shape)
    there = leads < size
    pairs = np.unique(state[there] * size + leads[there])
    source, target = pairs // size, pairs % size
    return _reachable_states(source, target, np.arange(size) == begin) & _reachable_states(target, source, final)


def _reachable_states(source: Array, target: Array, reached: Array) -> Array:
    """All that can be reached along edges."""
    while True:
        more = reached.copy()
        more[target[reached[source]]] = True
        if (more == reached).all():
            return reached
        reached = more
