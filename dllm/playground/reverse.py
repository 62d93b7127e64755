"""Write a list of words backwards: every word depends on the prompt alone, on a word far from its own place."""

from __future__ import annotations

from random import Random

from dllm.playground.base import Example, OneAnswer, check_size
from dllm.playground.words import WORDS, draw_words


class Reverse(OneAnswer):
    """A list of `size` words, to be written from the last to the first."""

    name = "reverse"
    title = "Write a list of words from the last to the first."
    structure = "Each word is fixed by the prompt: no word depends on another."
    sizes = tuple(range(2, 13))
    default_size = 8

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, len(WORDS))
        words = draw_words(rng, size)
        return Example(f"Reverse: {' '.join(words)}", " ".join(reversed(words)), size)
