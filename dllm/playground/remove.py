"""Remove any one word of a list: writing the place in the middle halves the number of words it can be."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer, Values
from dllm.playground.words import WORDS, draw_words, read_words


class Remove(Task):
    """A list of `size` words, to be written again without any one of them.

    A written place determines whether the missing word was before it or after it, which halves the words that it can
    be, so that ceil(log2(size)) forwards suffice. With greedy values one forward suffices: the most probable words of
    all places are the list without its middle word.
    """

    name = "remove"
    title = "Write a list of words again without any one of them."
    structure = "One hidden choice, which word goes, moves all words behind it by one place."
    sizes = tuple(range(3, 11))
    default_size = 6

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 2, len(WORDS))
        words = draw_words(rng, size)
        place = rng.randrange(size)
        return Example(f"Remove one: {' '.join(words)}", " ".join(words[:place] + words[place + 1 :]), size)

    def is_right(self, example: Example, text: str) -> bool:
        return tuple(text.split()) in self.answers(example)

    def answers(self, example: Example) -> Iterator[Answer]:
        words = read_words(example.prompt)
        for place in range(len(words)):
            yield (*words[:place], *words[place + 1 :])

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return (example.size - 1).bit_length() if values == "drawn" else 1
