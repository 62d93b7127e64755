"""Shuffle a list of words: a free permutation, which no decoder can write faster than word by word."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import permutations
from math import perm
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer, Values
from dllm.playground.words import WORDS, draw_words, read_words


class Shuffle(Task):
    """A list of `size` words, to be written in any order."""

    name = "shuffle"
    title = "Write a list of words in any order, each once."
    structure = "Any two words depend on each other: what is written in one place is missing everywhere else."
    sizes = tuple(range(2, 11))
    default_size = 6

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, len(WORDS))
        words = draw_words(rng, size)
        return Example(f"Shuffle: {' '.join(words)}", " ".join(rng.sample(words, size)), size)

    def is_right(self, example: Example, text: str) -> bool:
        return sorted(text.split()) == sorted(read_words(example.prompt))

    def answers(self, example: Example) -> Iterator[Answer]:
        return permutations(read_words(example.prompt))

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return example.size

    def best_accuracy(self, example: Example, forwards: int, values: Values = "drawn") -> float:
        return _best(example.size, forwards)  # all words are equally probable, so that greedy is a draw, too


@cache
def _best(words: int, forwards: int) -> float:
    """Compute the best accuracy: `g` places drawn at once all differ with probability perm(words, g) / words ** g."""
    if not words or not forwards:
        return float(not words)
    groups = [words] if forwards == 1 else range(1, words + 1)
    best: float = max(perm(words, g) / words**g * _best(words - g, forwards - 1) for g in groups)
    return best
