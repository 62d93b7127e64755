"""Complete a sequence of brackets so that it balances: every bracket limits the choice of all brackets after it."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer

DEEPEST, LONGEST = 6, 4
"""Most open brackets, and most closed pairs, that a prompt begins with."""


class Brackets(Task):
    """The beginning of a balanced sequence, to be continued by `size` brackets in any way that balances."""

    name = "brackets"
    title = "Continue brackets to a balanced sequence of a given length."
    structure = "A closing bracket needs an open one before it: each place depends on the balance of all before it."
    sizes = tuple(range(2, 13))
    default_size = 8

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, 24)
        depth = rng.randrange(size % 2, min(size, DEEPEST) + 1, 2)
        start = _random_path(rng, 0, depth, depth + 2 * rng.randint(1, LONGEST))
        end = _random_path(rng, depth, 0, size)
        return Example(f"Balance {len(start) + size}: {start}", end, size)

    def is_right(self, example: Example, text: str) -> bool:
        end = "".join(text.split())
        return len(end) == example.size and _is_balanced(_read_start(example) + end)

    def answers(self, example: Example) -> Iterator[Answer]:
        start = _read_start(example)
        depth = start.count("(") - start.count(")")
        for steps in _iterate_completions(depth, example.size):
            yield tuple(steps)


def _is_balanced(text: str) -> bool:
    """Return True if a text consists of brackets that balance."""
    depth = 0
    for symbol in text:
        depth += {"(": 1, ")": -1}.get(symbol, -len(text) - 1)
        if depth < 0:
            return False
    return depth == 0


def _random_path(rng: Random, depth: int, end: int, length: int) -> str:
    """Draw brackets that lead from one depth to another and never below 0, uniformly from all such sequences."""
    text = ""
    for left in range(length - 1, -1, -1):
        up, down = _count_paths(depth + 1, end, left), _count_paths(depth - 1, end, left)
        opens = rng.randrange(up + down) < up
        text += "(" if opens else ")"
        depth += 1 if opens else -1
    return text


def _count_paths(depth: int, end: int, left: int) -> int:
    """Count the sequences of `left` brackets from a depth to another that never go below 0, by reflection."""
    if depth < 0 or abs(end - depth) > left or (left + end - depth) % 2:
        return 0
    up = (left + end - depth) // 2
    return comb(left, up) - (comb(left, up + depth + 1) if up + depth + 1 <= left else 0)


def _iterate_completions(depth: int, left: int) -> Iterator[str]:
    """Iterate over all sequences of `left` brackets that lead from a depth to 0 and never below."""
    if not left:
        yield ""
        return
    for symbol, step in (("(", 1), (")", -1)):
        if _count_paths(depth + step, 0, left - 1):
            yield from (symbol + rest for rest in _iterate_completions(depth + step, left - 1))


def _read_start(example: Example) -> str:
    """Read the beginning of the sequence from a prompt."""
    return example.prompt.rpartition(" ")[2]
