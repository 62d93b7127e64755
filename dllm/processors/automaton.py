"""A regular expression over tokens: the tokens that lead from one state of its automaton to another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.processors.byte_automaton import Array, compile_byte_automaton
from dllm.processors.spelling import spell_tokens

END, NEVER, NOTHING = range(3)
"""The first kinds of tokens: END ends the text, NEVER is never written, and NOTHING adds nothing to a text, so that it
comes only behind its end."""
MAX_STATES = 4096
"""Most states: the steps between them are a dense matrix."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """An automaton over tokens.

    States 0 to n - 1 are those of the text. In state n it has ended, in state n + 1 it cannot be completed.

    Attributes:
        begin: State before the first token.
        final: States in which the text may end.
        kinds: Kind of each token: tokens of one kind do the same in every state. Kinds 0 to 2 are END, NEVER, NOTHING.
        table: State behind each kind and state.
        steps: 1 where some token leads from a state to another, both of them up to n.
        edges: Kind, state before and state behind, sorted by kind, of all entries of the table that do not lead to
            state n + 1.
    """

    begin: int
    final: Bool[Tensor, " n"]
    kinds: Int[Tensor, " v"]
    table: Int[Tensor, "c n+2"]
    steps: Float[Tensor, "n+1 n+1"]
    edges: Int[Tensor, "3 e"]

    @property
    def end(self) -> int:
        """State n, in which the text has ended."""
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


@functools.lru_cache(maxsize=16)
def compile_automaton(pattern: str, tokenizer: Any, vocabulary: int, mask_id: int | None) -> Automaton:
    """Compile a pattern over a tokenizer's tokens. The latest automata are kept.

    Args:
        pattern: The regular expression.
        tokenizer: The tokenizer.
        vocabulary: Number of token ids.
        mask_id: The mask token, which is never written. None where there is none.

    Raises:
        ConfigError: The pattern cannot be compiled or has too many states, or the tokenizer's spelling is not known.
    """
    return build_token_automaton(*compile_byte_automaton(pattern), spell_tokens(tokenizer, vocabulary), mask_id)


def build_token_automaton(
    table: Int[Array, "s_and_dead 256"],
    begin: int,
    final: Bool[Array, " s"],
    spelled: Sequence[bytes | None],
    mask_id: int | None,
) -> Automaton:
    """Build the automaton over tokens from the one over bytes, with the states that a whole text can pass through.

    Args:
        table: Transitions by byte, as `compile_byte_automaton` returns them.
        begin: First state, as it returns it.
        final: States in which the text may end, as it returns them.
        spelled: Bytes of each token; None or empty where it adds nothing to a text.
        mask_id: The mask token, which is never written.

    Raises:
        ConfigError: There are more than MAX_STATES states.
    """
    writes = [i for i, word in enumerate(spelled) if word and i != mask_id]
    leads, which = _word_transitions(table, [spelled[i] or b"" for i in writes])
    leads = leads[:, :-1]
    # States in the middle of a token are not passed through, so many of those over bytes are dropped here.
    useful = _find_useful_states(leads, begin, final)
    useful[begin] = True
    n = int(useful.sum())
    if n > MAX_STATES:
        raise ConfigError(
            f"the constraint's automaton has {n} states, and more than {MAX_STATES} are too slow: shorten what it "
            "counts ({3,30}), or name fewer characters ([a-z] instead of \\w)"
        )
    # Numbers of the states that are kept; all others, the byte automaton's dead one included, become n + 1.
    renamed = np.where(useful, np.cumsum(useful) - 1, n + 1)
    leads = np.concatenate([renamed, [n + 1]])[leads[:, useful]]
    leads, again = _unique_rows(leads)  # words that differed only in states that were dropped are now of one kind

    kinds = np.full(len(spelled), NOTHING)
    kinds[writes] = again[which] + NOTHING + 1
    behind = np.full((len(leads) + 3, n + 2), n + 1)
    # Behind the end of a text anything may follow: those columns are decided too, and are cut off.
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


def _word_transitions(
    table: Int[Array, "s_and_dead 256"], words: Sequence[bytes]
) -> tuple[Int[Array, "m s_and_dead"], Int[Array, " w"]]:
    """Find the state to which each word leads from every state.

    Returns:
        The different transitions, as rows of a table, and each word's row in it.
    """
    # All words are read at once, a byte at a time. Those that have done the same so far share a row, so that the work
    # grows with the number of different transitions and not with the vocabulary.
    which = np.zeros(len(words), dtype=np.int64)
    maps = np.arange(len(table))[None]
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    for place in range(lengths.max(initial=0)):
        unread = lengths > place
        byte = np.array([words[i][place] for i in np.flatnonzero(unread).tolist()], dtype=np.int64)
        pairs, pair = np.unique(which[unread] * 256 + byte, return_inverse=True)
        after = table[maps[pairs // 256], (pairs % 256)[:, None]]
        which[unread] = len(maps) + pair
        maps, merged = _unique_rows(np.concatenate([maps, after]))
        which = merged[which]
    used, which = np.unique(which, return_inverse=True)
    return maps[used], which


def _unique_rows(rows: Int[Array, "m s"]) -> tuple[Int[Array, "u s"], Int[Array, " m"]]:
    """Remove repetitions of rows, and find where each row is among those that are left."""
    rows = np.ascontiguousarray(rows)
    if not len(rows):
        return rows, np.zeros(0, dtype=np.int64)
    # Rows are compared as strings of bytes: `np.unique(axis=0)` is many times slower.
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, place = np.unique(whole, return_index=True, return_inverse=True)
    return rows[first], place


def _find_useful_states(leads: Int[Array, "m s"], begin: int, final: Bool[Array, " s"]) -> Bool[Array, " s"]:
    """Find the states on a path from the first state to one in which the text may end."""
    size = len(final)
    state = np.broadcast_to(np.arange(size), leads.shape)
    there = leads < size
    pairs = np.unique(state[there] * size + leads[there])
    source, target = pairs // size, pairs % size
    return _reachable_states(source, target, np.arange(size) == begin) & _reachable_states(target, source, final)


def _reachable_states(
    source: Int[Array, " e"], target: Int[Array, " e"], reached: Bool[Array, " s"]
) -> Bool[Array, " s"]:
    """Find all states that can be reached along edges, those to begin with included."""
    while True:
        more = reached.copy()
        more[target[reached[source]]] = True
        if (more == reached).all():
            return reached
        reached = more
