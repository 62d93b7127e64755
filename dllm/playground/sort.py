"""Sort a list of words by the alphabet: fixed by the prompt, but each place depends on all words of it."""

from __future__ import annotations

from random import Random

from dllm.playground.base import Example, OneAnswer, check_size
from dllm.playground.words import WORDS, draw_words


class Sort(OneAnswer):
    """A list of `size` words, to be put into alphabetical order."""

    name = "sort"
    title = "Put a list of words into alphabetical order."
    structure = "Each word is fixed by the prompt, though a small model finds it more easily after those before it."
    sizes = tuple(range(2, 13))
    default_size = 8

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, len(WORDS))
        words = draw_words(rng, size)
        return Example(f"Sort: {' '.join(words)}", " ".join(sorted(words)), size)
