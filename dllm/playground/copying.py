"""Copy a list of words: every word depends on the prompt alone."""

from __future__ import annotations

from random import Random

from dllm.playground.base import Example, OneAnswer, check_size
from dllm.playground.words import WORDS, draw_words


class Copy(OneAnswer):
    """A list of `size` words, to be written again in the same order."""

    name = "copy"
    title = "Write a list of words again."
    structure = "Each word is fixed by the prompt: no word depends on another."
    sizes = tuple(range(2, 13))
    default_size = 8

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, len(WORDS))
        words = " ".join(draw_words(rng, size))
        return Example(f"Copy: {words}", words, size)
