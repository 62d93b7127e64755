"""A regular expression over bytes, compiled by `outlines-core`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from dllm.errors import ConfigError

Array = np.ndarray[Any, Any]

SENTINEL = "\U0010ffff"
"""A character that no text holds."""
MISSING_PACKAGE = 'constraints need the package outlines-core: pip install "dllm[constrain]"'


@functools.lru_cache(maxsize=16)
def compile_byte_automaton(pattern: str) -> tuple[Int[Array, "s_and_dead 256"], int, Bool[Array, " s"]]:
    """Compile a pattern over bytes.

    Returns:
        The state to which each byte leads from each of s states and from state s, from which no text can be completed;
        the first state; and the states in which the text may end.

    Raises:
        ConfigError: The library cannot compile the pattern, or no text at all matches.
    """
    # Up to version 0.2.14 the library loses the edges that leave a state in which the text may end, unless they lead to
    # another such state: `(ab)*` then matches nothing but the empty text. So the pattern is compiled with one more
    # character behind it, after which nothing comes: U+10FFFF, which is no character and which no text may hold.
    _build_outlines_index(pattern)  # for errors that show the caller's own pattern
    index = _build_outlines_index(f"(?:{pattern}){SENTINEL}")
    edges, stops = index.get_transitions(), index.get_final_states()
    states = sorted({index.get_initial_state(), *edges} - stops)
    place = {state: i for i, state in enumerate(states)}
    table = np.full((len(states) + 1, 256), len(states), dtype=np.int64)
    final = np.zeros(len(states), dtype=bool)
    for state in states:
        # The text may end in a state from which the bytes of the sentinel lead to the end of the longer pattern.
        final[place[state]] = (
            functools.reduce(lambda at, byte: edges.get(at, {}).get(byte), SENTINEL.encode(), state) in stops
        )
        for byte, target in edges[state].items():
            if target in place:
                table[place[state], byte] = place[target]
    return table, place[index.get_initial_state()], final


def _build_outlines_index(pattern: str) -> Any:
    """Build the library's index of a pattern over bytes.

    Raises:
        ConfigError: The library is missing, or cannot compile the pattern.
    """
    try:
        from outlines_core import Index, Vocabulary
    except ImportError:
        raise ConfigError(MISSING_PACKAGE) from None
    try:
        return Index(pattern, Vocabulary(256, {bytes([i]): [i] for i in range(256)}))
    except ValueError as error:
        reason = str(error).split("\n")[0]
        if "start state" in reason:
            reason = "a pattern matches the whole text anyway: leave ^ and $ out"
        elif "incompatible" in reason:
            reason = "no text matches it"
        raise ConfigError(f"regular expression {pattern!r}: {reason}") from None
