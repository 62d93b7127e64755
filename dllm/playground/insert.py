"""Insert a word anywhere into a list: writing the place in the middle halves the number of possible insertions."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer, Values
from dllm.playground.words import WORDS, draw_words, read_words


class Insert(Task):
    """A list of `size` words, into which a given word is to be put anywhere.

    A written place determines whether the new word is there, before it or after it. Of k possible places, the middle
    one leaves at most (k - 1) / 2, so that ceil(log2(k + 1)) forwards suffice. With greedy values two suffice: first
    all places except the middle one, where the new word must then go.
    """

    name = "insert"
    title = "Write a list of words again, with a given word put in anywhere."
    structure = "One hidden choice, where the word goes, moves all words behind it by one place."
    sizes = tuple(range(2, 11))
    default_size = 6

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, len(WORDS) - 1)
        new, *words = draw_words(rng, size + 1)
        place = rng.randrange(size + 1)
        return Example(f"Insert {new}: {' '.join(words)}", " ".join([*words[:place], new, *words[place:]]), size)

    def is_right(self, example: Example, text: str) -> bool:
        return tuple(text.split()) in self.answers(example)

    def answers(self, example: Example) -> Iterator[Answer]:
        new, words = example.prompt.partition(":")[0].split()[-1], read_words(example.prompt)
        for place in range(len(words) + 1):
            yield (*words[:place], new, *words[place:])

    def limit(self, example: Example, values: Values = "drawn") -> int:
        return (example.size + 1).bit_length() if values == "drawn" else 2
