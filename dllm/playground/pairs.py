"""Choose among pairs of words: the pair is a free choice, and its first word determines its second."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer, Values
from dllm.playground.words import draw_words

OPTIONS = 4
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


class Pairs(Task):
    """Four pairs of words, of which `size` are to be written, freely chosen and repeated at will.

    Two words written in one forward belong to the same pair only by chance; written one after the other they always do.
    """

    name = "pairs"
    title = "Write pairs out of four given ones, as many as asked for, in any order and as often as you like."
    structure = "The two words of a pair depend on each other and on nothing else."
    sizes = (1, 2, 3, 4, 5)
    default_size = 3

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, len(COUNTS))
        words = draw_words(rng, 2 * OPTIONS)
        options = list(zip(words[::2], words[1::2], strict=True))
        answer = [rng.choice(options) for _ in range(size)]
        return Example(f"Pick {COUNTS[size - 1]}: {_format_pairs(options)}", _format_pairs(answer), size)

    def is_right(self, example: Example, text: str) -> bool:
        chosen = [tuple(pair.split()) for pair in text.split(",")]
        return len(chosen) == example.size and set(chosen) <= set(_read_options(example))

    def answers(self, example: Example) -> Iterator[Answer]:
        for chosen in product(_read_options(example), repeat=example.size):
            yield tuple(chain.from_iterable((one, two, ",") for one, two in chosen))[:-1]

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return 2

    def best_accuracy(self, example: Example, forwards: int, values: Values = "drawn") -> float:
        return 1.0 if forwards > 1 else float(OPTIONS) ** -example.size


def _read_options(example: Example) -> list[tuple[str, str]]:
    """Read the pairs to choose from out of a prompt."""
    pairs = example.prompt.partition(":")[2].split(",")
    return [(one, two) for one, two in (pair.split() for pair in pairs)]


def _format_pairs(pairs: list[tuple[str, str]]) -> str:
    """Write pairs separated by commas."""
    return ", ".join(f"{one} {two}" for one, two in pairs)
