"""Complete a sequence of brackets so that it balances: every prefix must, so a bracket limits all those behind it."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from random import Random

from dllm.playground.base import Example, Task, demand
from dllm.playground.limits import Answer


class Brackets(Task):
    """The beginning of a balanced sequence of `size` pairs is continued to its full length, in any way that balances."""

    name = "brackets"
    title = "Continue brackets to a balanced sequence of a given number of pairs."
    structure = "A closing bracket needs an open one before it: each place depends on the balance of all before it."
    sizes = (2, 3, 4, 5, 6, 7, 8)
    default_size = 5

    def draw(self, rng: Random, size: int, held: bool) -> Example:
        demand(self, size, 1, 12)
        sequence = random_brackets(rng, size)
        start = rng.randint(1, size)
        return Example(f"Balance {size}: {sequence[:start]}", sequence[start:], size)

    def is_right(self, example: Example, text: str) -> bool:
        whole = _start(example) + "".join(text.split())
        return len(whole) == 2 * example.size and balanced(whole)

    def answers(self, example: Example) -> Iterator[Answer]:
        start = _start(example)
        depth = start.count("(") - start.count(")")
        for steps in _completions(depth, 2 * example.size - len(start)):
            yield tuple(steps)


def balanced(text: str) -> bool:
    """Whether a text consists of brackets that balance."""
    depth = 0
    for symbol in text:
        depth += {"(": 1, ")": -1}.get(symbol, -len(text) - 1)
        if depth < 0:
            return False
    return depth == 0


def random_brackets(rng: Random, pairs: int) -> str:
    """A balanced sequence, each equally likely: each step in proportion to the ways to go on from it."""
    text, depth = "", 0
    for left in range(2 * pairs - 1, -1, -1):
        up, down = _ways(depth + 1, left), _ways(depth - 1, left)
        opens = rng.randrange(up + down) < up
        text += "(" if opens else ")"
        depth += 1 if opens else -1
    return text


def _ways(depth: int, left: int) -> int:
    """How many sequences of so many brackets lead from a depth to 0 without going below it (ballot numbers)."""
    if depth < 0 or depth > left or (left - depth) % 2:
        return 0
    down = (left + depth) // 2
    return comb(left, down) - comb(left, down + 1)


def _completions(depth: int, left: int) -> Iterator[str]:
    if not left:
        yield ""
        return
    for symbol, step in (("(", 1), (")", -1)):
        if _ways(depth + step, left - 1):
            yield from (symbol + rest for rest in _completions(depth + step, left - 1))


def _start(example: Example) -> str:
    return example.prompt.rpartition(" ")[2]
